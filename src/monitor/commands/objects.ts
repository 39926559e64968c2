/**
 * Commands that make and remove objects: credentials of TLS, and who may come.
 */
import * as v from 'valibot';
import { type ObjectProperties, parseObjectProperties } from '../../tls/object-properties.ts';
import { defineCommand } from '../command.ts';

const objectAdd = defineCommand({
  help: 'make an object: tls-creds-x509, tls-creds-psk, authz-simple or authz-list, as TYPE,id=NAME and properties',
  qmp: 'object-add',
  hmp: {
    name: 'object_add',
    positional: [{ name: 'properties', kind: 'rest' }],
    toArguments: ({ properties }) => parseObjectProperties(String(properties)),
  },
  // Its properties are of its type, which checks them.
  schema: v.looseObject({ 'qom-type': v.string(), id: v.string() }),
  handler({ vm }, properties) {
    vm.addObject(properties as ObjectProperties);
    return {};
  },
});

const objectDel = defineCommand({
  help: 'remove an object; connections that use it go on',
  qmp: 'object-del',
  hmp: {
    name: 'object_del',
    positional: [{ name: 'id', kind: 'string', choices: ({ vm }) => vm.objectIds }],
  },
  schema: v.strictObject({ id: v.string() }),
  handler({ vm }, { id }) {
    vm.removeObject(id);
    return {};
  },
});

export const OBJECT_COMMANDS = [objectAdd, objectDel] as const;
