/**
 * A virtual machine in a process of its own, driven over Node's IPC channel: the child's side of remote-vm.ts.
 *
 * It is the library as a program would use it, without monitors and without a command line. Ends with its parent.
 */
import { VirtualMachine } from '../src/vm/virtual-machine.ts';
import type { VmReply, VmRequest } from './remote-vm.ts';

let vm: VirtualMachine | undefined;
let serial = '';

process.on('message', (request: VmRequest) => {
  perform(request).then(
    (value) => reply({ id: request.id, value }),
    (error: Error) => reply({ id: request.id, error: error.message }),
  );
});
process.on('disconnect', () => process.exit());

function reply(message: VmReply): void {
  process.send?.(message);
}

async function perform(request: VmRequest): Promise<unknown> {
  if (request.kind === 'create') {
    vm = await VirtualMachine.create(request.options);
    vm.on('serial', (bytes) => {
      serial += Buffer.from(bytes).toString('latin1');
    });
    return;
  }
  if (vm === undefined) throw new Error('There is no machine yet');
  switch (request.kind) {
    case 'configure':
      vm.setCapabilities({ 'postcopy-ram': request.postcopy, 'x-checksum': request.checksums });
      vm.setParameters(request.parameters);
      return;
    case 'add-object':
      vm.addObject(request.properties);
      return;
    case 'listen':
      await vm.migrateIncoming(request.uri);
      return;
    case 'migrate':
      await vm.migrate(request.uri);
      return;
    case 'ended':
      return vm.migrationEnded();
    case 'query':
      return vm.queryMigrate();
    case 'stop':
      await vm.stop();
      return;
    case 'console':
      return serial;
    case 'close':
      await vm.close();
      return;
  }
}
