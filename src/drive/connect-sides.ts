/**
 * Both monitors, connected and asked once, and what machines they are of. Nothing is changed here.
 */
import { NotStartedError } from './check-sides.ts';
import { identifyMachine, type MachineIdentity } from './machine-identity.ts';
import { type Side, WatchedMachine } from './watched-machine.ts';

export interface ConnectedSide {
  readonly machine: WatchedMachine;
  readonly identity: MachineIdentity;
}

/**
 * @param onConnected gets the machine as soon as it is connected: whoever calls closes it, whatever comes then
 * @throws {QmpConnectionError | NotStartedError} if there is no talking to it; the text names the side
 */
export async function connectSide(
  side: Side,
  address: string,
  timeoutMs: number,
  onConnected: (machine: WatchedMachine) => void,
): Promise<ConnectedSide> {
  const machine = await WatchedMachine.connect(side, address);
  onConnected(machine);
  if (!(await machine.refresh(timeoutMs))) throw new NotStartedError(`The ${side}'s monitor does not answer`);
  return { machine, identity: await identifyMachine(machine.client) };
}
