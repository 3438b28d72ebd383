/** Values that several tables of the settings file take. */
import { z } from "zod";

export const absolutePath = z.string().startsWith("/", "must be an absolute path");

/** What a timer of Node.js can wait for, 24.8 days; a longer one runs out at once (nodejs.org, "setTimeout"). */
export const MAX_TIMER_MS = 2 ** 31 - 1;
