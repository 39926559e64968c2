/**
 * Capabilities and parameters of the source for a save, and what they were before.
 *
 * A save needs a plain precopy over one connection: whatever else the operator has switched on goes off for this migration.
 * Only what differs is touched, and it is all given back.
 */
import { type QmpClient, QmpCommandError } from '../qemu/qmp-client.ts';
import { SaveError } from './save-error.ts';

/** What a migration into a file must not have; those that a monitor does not know it has not. */
const MUST_BE_OFF = [
  'multifd',
  'zero-copy-send',
  'rdma-pin-all',
  'compress',
  'x-ignore-shared',
  'mapped-ram',
  'dirty-bitmaps',
  'block',
  'x-colo',
  'postcopy-ram',
  'postcopy-preempt',
  'release-ram',
  'pause-before-switchover',
  'switchover-ack',
  'background-snapshot',
];

/** What else `background-snapshot` does not go together with. */
const NOT_IN_BACKGROUND = [
  'return-path',
  'postcopy-blocktime',
  'late-block-activate',
  'validate-uuid',
  'auto-converge',
  'dirty-limit',
  'xbzrle',
];

export interface SaveWishes {
  readonly isBackground: boolean;
  /** Whether the source is to wait for our word at the end, where it can. */
  readonly hasReturnPath: boolean;
  /** Of the stream; 0 is no limit. */
  readonly maxBytesPerSecond: number;
  /** Undefined leaves what the source has. */
  readonly downtimeLimitMs: number | undefined;
  /** Whether our end speaks TLS; the credentials of the source are its own. */
  readonly hasTls: boolean;
}

type Capabilities = Readonly<Record<string, boolean>>;
type Parameters = Readonly<Record<string, unknown>>;

/** What is to be changed: only what differs. */
export interface SettingChanges {
  readonly capabilities: Capabilities;
  readonly parameters: Parameters;
}

/**
 * @param capabilities and `parameters`: as the monitor lists them
 * @throws {SaveError} if the source cannot do what is wished
 */
export function planSettings(
  capabilities: Capabilities,
  parameters: Parameters,
  wishes: SaveWishes,
): SettingChanges {
  const { isBackground, hasReturnPath, maxBytesPerSecond, downtimeLimitMs, hasTls } = wishes;
  if (hasTls && !parameters['tls-creds']) {
    throw new SaveError(
      'QEMU has no credentials for a protected connection: "object_add tls-creds-x509,id=tls0,endpoint=client,dir=..." and ' +
        '"migrate_set_parameter tls-creds tls0" at its monitor, or leave out --tls-creds',
    );
  }
  if (isBackground && capabilities['background-snapshot'] === undefined) {
    throw new SaveError(
      'This machine cannot save in the background: its monitor has no "background-snapshot"',
    );
  }
  const wanted: Record<string, boolean> = Object.fromEntries(MUST_BE_OFF.map((name) => [name, false]));
  wanted['events'] = true;
  if (isBackground) {
    for (const name of NOT_IN_BACKGROUND) wanted[name] = false;
    wanted['background-snapshot'] = true;
  } else wanted['return-path'] = hasReturnPath;

  const wantedParameters: Record<string, unknown> = {
    'max-bandwidth': maxBytesPerSecond,
    ...(!hasTls && { 'tls-creds': '' }),
    mode: 'normal',
    ...(downtimeLimitMs !== undefined && { 'downtime-limit': downtimeLimitMs }),
    // Zero pages that are sent as what they are would take room in the file.
    ...(parameters['zero-page-detection'] === 'none' && { 'zero-page-detection': 'legacy' }),
  };
  return {
    capabilities: differing(capabilities, wanted),
    parameters: differing(parameters, wantedParameters),
  };
}

/** What is wanted and known, and is not so already. */
function differing<Value>(
  current: Readonly<Record<string, Value>>,
  wanted: Readonly<Record<string, Value>>,
): Record<string, Value> {
  return Object.fromEntries(
    Object.entries(wanted).filter(([name, value]) => Object.hasOwn(current, name) && current[name] !== value),
  );
}

/** The values that `changes` replaces. */
export function valuesBefore<Value>(
  current: Readonly<Record<string, Value>>,
  changes: Readonly<Record<string, Value>>,
): Record<string, Value> {
  return Object.fromEntries(Object.keys(changes).map((name) => [name, current[name] as Value]));
}

export class SourceSettings {
  readonly #client: QmpClient;
  readonly #changes: SettingChanges;
  readonly #before: SettingChanges;
  #appliedCapabilities = false;
  #appliedParameters = false;

  /** Reads what there is; changes nothing. @throws {SaveError} if the source cannot do what is wished */
  static async read(client: QmpClient, wishes: SaveWishes): Promise<SourceSettings> {
    const listed = await client.execute<{ capability: string; state: boolean }[]>(
      'query-migrate-capabilities',
    );
    const capabilities = Object.fromEntries(listed.map(({ capability, state }) => [capability, state]));
    const parameters = await client.execute<Parameters>('query-migrate-parameters');
    const changes = planSettings(capabilities, parameters, wishes);
    return new SourceSettings(client, changes, {
      capabilities: valuesBefore(capabilities, changes.capabilities),
      parameters: valuesBefore(parameters, changes.parameters),
    });
  }

  private constructor(client: QmpClient, changes: SettingChanges, before: SettingChanges) {
    this.#client = client;
    this.#changes = changes;
    this.#before = before;
  }

  /** @throws {SaveError} if the source refuses; what was set by then is still to be given back */
  async apply(): Promise<void> {
    try {
      this.#appliedCapabilities = await setCapabilities(this.#client, this.#changes.capabilities);
      this.#appliedParameters = await setParameters(this.#client, this.#changes.parameters);
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      const { capabilities } = this.#changes;
      const hint =
        capabilities['background-snapshot'] === true
          ? '; leave --background out to save in the usual way'
          : '';
      throw new SaveError(`QEMU refuses the settings of a save: ${error.message}${hint}`, { cause: error });
    }
  }

  /** When no migration is under way. May be called twice. @throws {QmpCommandError} or {QmpConnectionError} */
  async giveBack(): Promise<void> {
    if (this.#appliedCapabilities) await setCapabilities(this.#client, this.#before.capabilities);
    this.#appliedCapabilities = false;
    if (this.#appliedParameters) await setParameters(this.#client, this.#before.parameters);
    this.#appliedParameters = false;
  }
}

async function setCapabilities(client: QmpClient, states: Capabilities): Promise<boolean> {
  const capabilities = Object.entries(states).map(([capability, state]) => ({ capability, state }));
  if (capabilities.length === 0) return false;
  await client.execute('migrate-set-capabilities', { capabilities });
  return true;
}

async function setParameters(client: QmpClient, values: Parameters): Promise<boolean> {
  if (Object.keys(values).length === 0) return false;
  await client.execute('migrate-set-parameters', values);
  return true;
}
