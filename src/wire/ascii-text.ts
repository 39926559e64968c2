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

/** Whether `text` is what `asciiText()` makes of a cstr without any escape: 1 to 255 printable characters. */
export function isPlainName(text: string): boolean {
  return /^[\x20-\x5b\x5d-\x7e]{1,255}$/.test(text);
}

/** `value` as `0x…`. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
