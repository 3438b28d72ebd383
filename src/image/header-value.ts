/** Whether a text may stand in an HTTP header: RFC 9110 5.5, one byte a character. */
export function isHeaderValue(text: string): boolean {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(text);
}
