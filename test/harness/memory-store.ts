/** Records that last as long as the test. */
import type { RecordStore } from "../../src/state/store.js";

export class MemoryStore<T> implements RecordStore<T> {
  readonly records = new Map<string, T>();

  async put(id: string, body: T): Promise<void> {
    this.records.set(id, body);
  }

  get(id: string): T | undefined {
    return this.records.get(id);
  }

  list(): { id: string; body: T }[] {
    return [...this.records].map(([id, body]) => ({ id, body }));
  }

  async remove(id: string): Promise<void> {
    this.records.delete(id);
  }
}
