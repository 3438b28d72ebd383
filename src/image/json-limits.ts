/**
 * Limits of a JSON text that can be told without parsing it. A parser's time is by the number of
 * values and by their depth more than by bytes: four megabytes of brackets hold up the event loop for
 * a second, four megabytes of one string for some milliseconds.
 */

/** An image of 500 layers, or an index of 1,000 entries, has less than half of it. */
const MAX_VALUES = 50_000;
const MAX_DEPTH = 64;
/** So little is parsed in no time, whatever it is. */
const SMALL_BYTES = 32 * 1024;

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/** What of a text is beyond the limits; `undefined` where nothing is. Of what is no JSON it says anything. */
export function beyondJsonLimits(bytes: Buffer): string | undefined {
  if (bytes.length <= SMALL_BYTES) return undefined;
  let depth = 0;
  let values = 0;
  let isInString = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (isInString) {
      if (byte === BACKSLASH) i++;
      else if (byte === QUOTE) isInString = false;
    } else if (byte === QUOTE) {
      isInString = true;
    } else if (byte === COMMA) {
      values++;
    } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      values++;
      if (++depth > MAX_DEPTH) return `is nested deeper than ${MAX_DEPTH}`;
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
      depth--;
    }
    if (values > MAX_VALUES) return `has more than ${MAX_VALUES} values`;
  }
  return undefined;
}
