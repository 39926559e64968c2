/**
 * What the package says of itself, and where its files are: this file is compiled to `dist/src/cli/`.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const ROOT = new URL('../../../', import.meta.url);

/** e.g. `0.1.0` */
export function packageVersion(): string {
  const manifest = JSON.parse(readFileSync(new URL('package.json', ROOT), 'utf8')) as { version: string };
  return manifest.version;
}

/** Guests that come with the package. */
export const BUILT_IN_GUESTS = ['counter', 'random', 'reader'] as const;
export type BuiltInGuest = (typeof BUILT_IN_GUESTS)[number];

/** Path of a built-in guest's kernel image. */
export function guestImagePath(guest: BuiltInGuest): string {
  return fileURLToPath(new URL(`guests/${guest}.bin`, ROOT));
}
