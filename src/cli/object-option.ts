/**
 * The option `--object` of several commands; what it makes is in tls-options.ts.
 */
export const OBJECT_HELP =
  'make an object, as TYPE,id=NAME,...: tls-creds-x509 or tls-creds-psk with dir=, authz-simple, authz-list (repeatable)';

/** For commander: an option that may be given several times. */
export function repeatable(value: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, value];
}
