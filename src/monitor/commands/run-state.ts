/**
 * Commands that pause the guest, let it run, show which it is, and end it.
 */
import { defineCommand, NO_ARGUMENTS } from '../command.ts';

const stop = defineCommand({
  help: 'pause the guest',
  qmp: 'stop',
  hmp: { name: 'stop', alias: 's' },
  schema: NO_ARGUMENTS,
  async handler({ vm }) {
    await vm.stop();
    return {};
  },
});

const cont = defineCommand({
  help: 'let the guest run on',
  qmp: 'cont',
  hmp: { name: 'cont', alias: 'c' },
  schema: NO_ARGUMENTS,
  async handler({ vm }) {
    await vm.cont();
    return {};
  },
});

const queryStatus = defineCommand({
  help: 'show whether the guest runs',
  qmp: 'query-status',
  hmp: { name: 'info status' },
  schema: NO_ARGUMENTS,
  handler: ({ vm }) => ({
    status: vm.runState,
    singlestep: false,
    running: vm.runState === 'running',
  }),
  text({ status, running }) {
    if (running) return 'VM status: running';
    return status === 'paused' ? 'VM status: paused' : `VM status: paused (${status})`;
  },
});

const quit = defineCommand({
  help: 'end the machine and this program',
  qmp: 'quit',
  hmp: { name: 'quit', alias: 'q' },
  schema: NO_ARGUMENTS,
  handler(context) {
    context.quit();
    return {};
  },
});

export const RUN_STATE_COMMANDS = [stop, cont, queryStatus, quit] as const;
