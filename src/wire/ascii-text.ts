/** Names on the wire as text. */

/**
 * The bytes from `start` up to `end` as text. Whatever is not printable ASCII, and the backslash, comes out as `\xNN`: the
 * text may go into an error message, and no two names give the same text.
 */
export function asciiText(bytes: Uint8Array, start: number, end: number): string {
  let text = '';
  for (let index = start; index < end; index++) {
    const code = bytes[index]!;
    const isPlain = code >= 0x20 && code < 0x7f && code !== 0x5c;
    text += isPlain ? String.fromCharCode(code) : `\\x${code.toString(16).padStart(2, '0')}`;
  }
  return text;
}

/** `value` as `0x…`. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
