/**
 * The properties of an object, as `--object` and `object_add` give them: text, JSON, or the arguments of a QMP command.
 *
 *   tls-creds-x509,id=tls0,dir=/etc/pki/qemu,endpoint=server        a comma in a value is written twice
 *   authz-list,id=auth0,policy=deny,rules.0.match=CN=a*,rules.0.policy=allow,rules.0.format=glob
 *   {"qom-type": "authz-simple", "id": "auth0", "identity": "CN=a"}
 */

/** A value that is no list is text, a switch or a number; a list holds further properties. */
export type ObjectProperties = Readonly<Record<string, unknown>>;

/** An object cannot be made as it was asked for; the text says which, what is wrong, and what to do. */
export class ObjectError extends RangeError {
  override readonly name = 'ObjectError';
}

/** What a name may be: it stands in options without quotes. */
const ID = /^[A-Za-z][A-Za-z0-9_.-]*$/;
/** A list in the text form is as long as this at most. */
const MAX_LIST_LENGTH = 1024;

/** @throws {ObjectError} if the text is not in one of the forms */
export function parseObjectProperties(text: string): ObjectProperties {
  if (text.trimStart().startsWith('{')) return parseJson(text);
  const properties: Record<string, unknown> = {};
  for (const [index, part] of splitAtCommas(text).entries()) {
    const at = part.indexOf('=');
    if (at === -1 && index > 0) throw new ObjectError(`Object properties are NAME=VALUE, got "${part}"`);
    if (at === -1) properties['qom-type'] = part;
    else assign(properties, part.slice(0, at), part.slice(at + 1));
  }
  return properties;
}

function parseJson(text: string): ObjectProperties {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ObjectError(`Object properties begin like JSON, but are none: ${(error as Error).message}`);
  }
  return value as ObjectProperties; // What begins with a brace is an object.
}

function splitAtCommas(text: string): string[] {
  const marked = text.replaceAll(',,', '\0');
  return marked.split(',').map((part) => part.replaceAll('\0', ','));
}

/** `rules.0.match` is the property `match` of the first of the list `rules`. */
function assign(properties: Record<string, unknown>, path: string, value: string): void {
  const [, list, index, name] = /^([^.]+)\.(\d+)\.([^.]+)$/.exec(path) ?? [];
  if (list === undefined || name === undefined) {
    if (Object.hasOwn(properties, path)) throw new ObjectError(`Object property "${path}" is there twice`);
    properties[path] = value;
    return;
  }
  const place = Number(index);
  properties[list] ??= [];
  const items = properties[list] as Record<string, unknown>[];
  if (!Array.isArray(items) || place > Math.min(items.length, MAX_LIST_LENGTH)) {
    throw new ObjectError(`Object property "${path}": elements of a list are numbered from 0, without gaps`);
  }
  items[place] = { ...items[place], [name]: value };
}

/** Takes properties one by one, each checked, and in the end refuses those that nobody took. */
export class PropertyReader {
  readonly #what: string;
  readonly #properties: Record<string, unknown>;

  /** @param what for messages, e.g. `Object "tls0"` */
  constructor(what: string, properties: ObjectProperties) {
    this.#what = what;
    this.#properties = { ...properties };
  }

  /** @throws {ObjectError} if it is missing or no text */
  text(name: string): string {
    const value = this.optionalText(name);
    if (value === undefined) throw this.error(`property "${name}" is missing`);
    return value;
  }

  optionalText(name: string): string | undefined {
    const value = this.#take(name);
    if (value === undefined || typeof value === 'string') return value;
    throw this.error(`property "${name}" must be text`);
  }

  switch(name: string, otherwise: boolean): boolean {
    const value = this.#take(name) ?? otherwise;
    if (value === true || value === 'on' || value === 'yes') return true;
    if (value === false || value === 'off' || value === 'no') return false;
    throw this.error(`property "${name}" must be on or off, got ${JSON.stringify(value)}`);
  }

  oneOf<Word extends string>(name: string, words: readonly Word[], otherwise: Word): Word {
    const value = this.#take(name) ?? otherwise;
    const word = words.find((each) => each === value);
    if (word === undefined) {
      throw this.error(`property "${name}" must be ${words.join(' or ')}, got ${JSON.stringify(value)}`);
    }
    return word;
  }

  list(name: string): readonly ObjectProperties[] {
    const value = this.#take(name) ?? [];
    const isList = Array.isArray(value) && value.every((item) => typeof item === 'object' && item !== null);
    if (!isList) throw this.error(`property "${name}" must be a list`);
    return value;
  }

  /** For what QEMU has and this program has not. @throws {ObjectError} with the reason if it is there */
  refuse(name: string, why: string): void {
    if (this.#take(name) !== undefined) throw this.error(`property "${name}" is not supported: ${why}`);
  }

  /** @throws {ObjectError} if something is left */
  end(): void {
    const [name] = Object.keys(this.#properties);
    if (name !== undefined) throw this.error(`property "${name}" is not known`);
  }

  error(text: string, cause?: unknown): ObjectError {
    return new ObjectError(`${this.#what}: ${text}`, cause === undefined ? {} : { cause });
  }

  #take(name: string): unknown {
    const value = this.#properties[name];
    delete this.#properties[name];
    return value;
  }
}

/** @throws {ObjectError} if there is no name, or none that can be written in options */
export function checkObjectId(value: unknown): string {
  if (typeof value === 'string' && ID.test(value)) return value;
  if (value === undefined) throw new ObjectError('An object needs an id: id=NAME');
  throw new ObjectError(
    `An id is a letter, then letters, digits, "-", "." or "_", got ${JSON.stringify(value)}`,
  );
}
