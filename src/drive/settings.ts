/**
 * Capabilities and parameters of one side: set for the migration, and given back afterwards as they were.
 */
import { QmpCommandError } from '../qemu/qmp-client.ts';
import type { Side, WatchedMachine } from './watched-machine.ts';

/** A capability or parameter somebody wants; without a side it is for both. */
export interface Wish<Value> {
  readonly name: string;
  readonly value: Value;
  readonly side?: Side;
  /** It is left out where the monitor does not know it. */
  readonly isOptional?: boolean;
}

/** `text` is for a parameter whose kind only the monitor knows. */
export type ParameterValue = number | boolean | { readonly text: string };

export interface SettingWishes {
  readonly capabilities: readonly Wish<boolean>[];
  readonly parameters: readonly Wish<ParameterValue>[];
}

type Values = Readonly<Record<string, unknown>>;

/** A setting that a side does not have, or refuses, with a text for whoever asked for it. */
export class SettingError extends Error {
  override readonly name = 'SettingError';
}

export class SideSettings {
  readonly machine: WatchedMachine;
  readonly #capabilitiesBefore: Values;
  readonly #parametersBefore: Values;
  /** What was changed, as it was before. */
  readonly #changedCapabilities: Record<string, unknown> = {};
  readonly #changedParameters: Record<string, unknown> = {};

  /** Reads how things are. @throws {QmpCommandError | QmpConnectionError} */
  static async read(machine: WatchedMachine): Promise<SideSettings> {
    const list = await machine.execute<{ capability: string; state: boolean }[]>(
      'query-migrate-capabilities',
    );
    const capabilities = Object.fromEntries(list.map(({ capability, state }) => [capability, state]));
    return new SideSettings(machine, capabilities, await machine.execute<Values>('query-migrate-parameters'));
  }

  private constructor(machine: WatchedMachine, capabilities: Values, parameters: Values) {
    this.machine = machine;
    this.#capabilitiesBefore = capabilities;
    this.#parametersBefore = parameters;
  }

  /** A number that is set, or was before: the last word on it. */
  numberOf(name: string, wishes: SettingWishes): number | undefined {
    const wish = wishes.parameters.findLast((each) => each.name === name && this.#concerns(each));
    const value = wish === undefined ? this.#parametersBefore[name] : this.#valueOf(wish);
    return typeof value === 'number' ? value : undefined;
  }

  /** @throws {SettingError} if one is not known here; nothing has been set then */
  check(wishes: SettingWishes): void {
    for (const wish of [...wishes.capabilities, ...wishes.parameters]) {
      if (!this.#concerns(wish) || wish.isOptional) continue;
      const isCapability =
        typeof wish.value === 'boolean' && wishes.capabilities.includes(wish as Wish<boolean>);
      const known = isCapability ? this.#capabilitiesBefore : this.#parametersBefore;
      // QEMU leaves out parameters that have never been set.
      if (wish.name in known || !isCapability) continue;
      const names = Object.keys(known).sort().join(', ');
      throw new SettingError(`The ${this.machine.side} has no capability "${wish.name}"; it has: ${names}`);
    }
  }

  /** Sets what differs. @throws {SettingError} if the monitor refuses; what was set before that can be restored */
  async apply(wishes: SettingWishes): Promise<void> {
    const capabilities: Record<string, unknown> = {};
    for (const wish of wishes.capabilities) {
      if (!this.#concerns(wish)) continue;
      if (!(wish.name in this.#capabilitiesBefore)) continue;
      capabilities[wish.name] = wish.value;
    }
    const parameters: Record<string, unknown> = {};
    for (const wish of wishes.parameters) {
      if (this.#concerns(wish)) parameters[wish.name] = this.#valueOf(wish);
    }
    await this.#set('capabilities', capabilities, this.#capabilitiesBefore, this.#changedCapabilities);
    await this.#set('parameters', parameters, this.#parametersBefore, this.#changedParameters);
  }

  /** Gives back what was changed. @returns why not, for people; undefined if all is as it was */
  async restore(): Promise<string | undefined> {
    try {
      await this.#send('capabilities', this.#changedCapabilities);
      await this.#send('parameters', this.#changedParameters);
      return undefined;
    } catch (error) {
      const names = Object.keys({ ...this.#changedCapabilities, ...this.#changedParameters }).join(', ');
      return `Settings of the ${this.machine.side} stay changed (${names}): ${(error as Error).message}`;
    }
  }

  get hasChanges(): boolean {
    return Object.keys({ ...this.#changedCapabilities, ...this.#changedParameters }).length > 0;
  }

  async #set(
    kind: 'capabilities' | 'parameters',
    wanted: Values,
    before: Values,
    changed: Record<string, unknown>,
  ): Promise<void> {
    const changes = Object.fromEntries(
      Object.entries(wanted).filter(([name, value]) => before[name] !== value),
    );
    try {
      await this.#send(kind, changes);
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      const names = Object.keys(changes).join(', ');
      throw new SettingError(`The ${this.machine.side} refuses the ${kind} ${names}: ${error.message}`, {
        cause: error,
      });
    }
    for (const name of Object.keys(changes)) if (name in before) changed[name] = before[name];
  }

  async #send(kind: 'capabilities' | 'parameters', values: Values): Promise<void> {
    if (Object.keys(values).length === 0) return;
    if (kind === 'parameters') await this.machine.execute('migrate-set-parameters', values);
    else {
      const capabilities = Object.entries(values).map(([capability, state]) => ({ capability, state }));
      await this.machine.execute('migrate-set-capabilities', { capabilities });
    }
  }

  #concerns({ side }: Wish<unknown>): boolean {
    return side === undefined || side === this.machine.side;
  }

  /** A text as the kind of value that the monitor has now; without one, as what it looks like. */
  #valueOf({ name, value }: Wish<ParameterValue>): unknown {
    if (typeof value !== 'object') return value;
    const { text } = value;
    const before = this.#parametersBefore[name];
    if (typeof before === 'string') return text;
    const wantsNumber = typeof before === 'number' || (before === undefined && /^\d/.test(text));
    if (wantsNumber) return numberIn(name, text);
    if (text === 'on' || text === 'off') return text === 'on';
    if (typeof before !== 'boolean') return text;
    throw new SettingError(`The parameter "${name}" must be on or off, got "${text}"`);
  }
}

const SUFFIX_BYTES: Readonly<Record<string, number>> = {
  '': 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

function numberIn(name: string, text: string): number {
  const [, digits, suffix = ''] = /^(\d+)([KMGT]?)$/i.exec(text) ?? [];
  const value = Number(digits) * (SUFFIX_BYTES[suffix.toUpperCase()] ?? Number.NaN);
  if (Number.isSafeInteger(value)) return value;
  throw new SettingError(
    `The parameter "${name}" must be a whole number, K, M, G or T behind it, got "${text}"`,
  );
}
