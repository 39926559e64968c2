/**
 * Holds a device state that came from a peer against the machine's own: v86 checks nothing of what it is given.
 *
 * The two trees must agree in everything but the values: the same lists, the same arrays of the same length, a simple
 * value where there is one. Few places may differ, and few values must be equal; both are named by the caller.
 */
import { DeviceStateError, type StateArray, type StateValue } from './state-codec.ts';

export interface ShapeRules {
  /** Places whose content is checked by the caller; `*` stands for any index. */
  readonly free: readonly string[];
  /** Places whose value must be the machine's own, with what they mean. */
  readonly equal: Readonly<Record<string, string>>;
}

/** @throws {DeviceStateError} naming the first place that differs, as in `85.0.1.16` */
export function checkStateShape(own: StateValue, loaded: StateValue, rules: ShapeRules): void {
  const free = new RegExp(`^(${rules.free.join('|').replaceAll('.', '\\.').replaceAll('*', '\\d+')})$`);

  function check(mine: StateValue, theirs: StateValue, place: string): void {
    if (free.test(place)) return;
    const meaning = rules.equal[place];
    if (meaning !== undefined && mine !== theirs) {
      throw new DeviceStateError(
        `Cannot load device state: ${meaning} must be ${textOf(mine)}, got ${textOf(theirs)}`,
      );
    }
    const mineIs = kindOf(mine);
    const theirsIs = kindOf(theirs);
    if (mineIs !== theirsIs) {
      throw new DeviceStateError(
        `Cannot load device state: ${place} must be ${mineIs} here, got ${theirsIs}`,
      );
    }
    if (!Array.isArray(mine) || !Array.isArray(theirs)) return;
    for (let index = 0; index < mine.length; index++) {
      check(mine[index] ?? null, theirs[index] ?? null, place === '' ? `${index}` : `${place}.${index}`);
    }
  }

  check(own, loaded, '');
}

/** A number as it is: what is equal or not is mostly one. */
function textOf(value: StateValue): string {
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : kindOf(value);
}

function kindOf(value: StateValue): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (isStateArray(value)) return `a ${value.constructor.name} of ${value.length}`;
  if (typeof value === 'string') return /^[ -~]{0,100}$/.test(value) ? `"${value}"` : 'another text';
  return 'a value';
}

const isStateArray = (value: StateValue): value is StateArray => ArrayBuffer.isView(value);
