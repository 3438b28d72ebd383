/** Values that several tables of the settings file take. */
import { z } from "zod";

export const absolutePath = z.string().startsWith("/", "must be an absolute path");
