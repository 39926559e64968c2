/**
 * `authz-simple` and `authz-list`: which of those who could prove who they are may come.
 *
 * The identity is the distinguished name of a certificate, or the user name of a pre-shared key.
 */
import { ObjectError, PropertyReader } from './object-properties.ts';

export type AuthorizationPolicy = 'allow' | 'deny';

export interface AuthorizationRule {
  readonly match: string;
  readonly policy: AuthorizationPolicy;
  /** `glob`: `*` stands for any characters, `?` for one, `[a-z]` for one of a set. */
  readonly format: 'exact' | 'glob';
}

/** Plain data: it goes to the thread that uses it. The first rule that fits decides. */
export interface Authorization {
  readonly kind: 'authz-simple' | 'authz-list';
  readonly id: string;
  readonly rules: readonly AuthorizationRule[];
  /** Of everybody else. */
  readonly policy: AuthorizationPolicy;
}

const POLICIES = ['allow', 'deny'] as const;
const FORMATS = ['exact', 'glob'] as const;

/** @throws {ObjectError} */
export function readSimpleAuthorization(id: string, reader: PropertyReader): Authorization {
  const match = reader.text('identity');
  reader.end();
  return { kind: 'authz-simple', id, rules: [{ match, policy: 'allow', format: 'exact' }], policy: 'deny' };
}

/** @throws {ObjectError} */
export function readListAuthorization(id: string, reader: PropertyReader): Authorization {
  const policy = reader.oneOf('policy', POLICIES, 'deny');
  const rules = reader.list('rules').map((properties, index) => {
    const rule = new PropertyReader(`Object "${id}", rules.${index}`, properties);
    const read: AuthorizationRule = {
      match: rule.text('match'),
      policy: rule.oneOf('policy', POLICIES, 'deny'),
      format: rule.oneOf('format', FORMATS, 'exact'),
    };
    rule.end();
    if (read.format === 'glob') checkGlob(read.match);
    return read;
  });
  reader.end();
  return { kind: 'authz-list', id, rules, policy };
}

export function isAllowed({ rules, policy }: Authorization, identity: string): boolean {
  const rule = rules.find(({ match, format }) =>
    format === 'exact' ? match === identity : matchesGlob(match, identity),
  );
  return (rule?.policy ?? policy) === 'allow';
}

/**
 * In time that grows with the product of both lengths only: what is matched comes from a stranger.
 */
export function matchesGlob(pattern: string, text: string): boolean {
  const parts = parseGlob(pattern);
  // reached[i]: the parts so far can stand for the first i characters.
  let reached = [true, ...Array<boolean>(text.length).fill(false)];
  for (const part of parts) {
    const next = Array<boolean>(text.length + 1).fill(false);
    if (part === '*') {
      const from = reached.indexOf(true);
      if (from !== -1) next.fill(true, from);
    } else {
      for (let at = 0; at < text.length; at++)
        next[at + 1] = reached[at] === true && part(text[at] as string);
    }
    reached = next;
  }
  return reached[text.length] === true;
}

type GlobPart = '*' | ((character: string) => boolean);

function parseGlob(pattern: string): GlobPart[] {
  const parts: GlobPart[] = [];
  const token = /\*|\?|\[([!^]?)(\]?[^\]]*)\]|\\(.)|([\s\S])/y;
  for (let match = token.exec(pattern); match !== null; match = token.exec(pattern)) {
    const [all, negation, set, escaped, plain] = match;
    if (all === '*') parts.push('*');
    else if (all === '?') parts.push(() => true);
    else if (set !== undefined) {
      const has = characterSet(set);
      parts.push((character) => has(character) !== (negation !== ''));
    } else parts.push((character) => character === (escaped ?? plain));
  }
  return parts;
}

function characterSet(set: string): (character: string) => boolean {
  const ranges = Array.from(set.matchAll(/([\s\S])-([\s\S])|([\s\S])/g), ([, from, to, single]) =>
    single === undefined ? [from as string, to as string] : [single, single],
  );
  return (character) => ranges.some(([from = '', to = '']) => character >= from && character <= to);
}

function checkGlob(pattern: string): void {
  if (pattern === '') throw new ObjectError('A glob pattern is empty and fits nobody');
}
