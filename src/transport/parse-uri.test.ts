import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatMigrationUri, type MigrationUri, parseMigrationUri, UriError } from './parse-uri.ts';

const ACCEPTED: readonly (readonly [text: string, uri: MigrationUri])[] = [
  ['tcp:localhost:4444', { scheme: 'tcp', host: 'localhost', port: 4444 }],
  ['tcp:192.0.2.7:0', { scheme: 'tcp', host: '192.0.2.7', port: 0 }],
  ['tcp:[::1]:4444', { scheme: 'tcp', host: '::1', port: 4444 }],
  ['tcp:[fe80::1%eth0]:65535', { scheme: 'tcp', host: 'fe80::1%eth0', port: 65535 }],
  ['tcp::4444', { scheme: 'tcp', host: '', port: 4444 }],
  ['tcp:0:4444', { scheme: 'tcp', host: '0', port: 4444 }],
  ['unix:/run/vm 1.sock', { scheme: 'unix', path: '/run/vm 1.sock' }],
  ['unix:a:b', { scheme: 'unix', path: 'a:b' }],
  ['fd:0', { scheme: 'fd', fd: 0 }],
  ['fd:17', { scheme: 'fd', fd: 17 }],
  ['exec:gzip -c > "/tmp/a:b"', { scheme: 'exec', command: 'gzip -c > "/tmp/a:b"' }],
  ['file:/var/vm.img', { scheme: 'file', path: '/var/vm.img', offsetBytes: 0 }],
  ['file:vm,1.img', { scheme: 'file', path: 'vm,1.img', offsetBytes: 0 }],
];

for (const [text, uri] of ACCEPTED) {
  test(`parseMigrationUri() reads ${text}, and formatMigrationUri() writes it back`, () => {
    assert.deepEqual(parseMigrationUri(text), uri);
    assert.equal(formatMigrationUri(uri), text);
  });
}

const OFFSETS: readonly (readonly [text: string, bytes: number])[] = [
  ['0', 0],
  ['4096', 4096],
  ['512b', 512],
  ['0x1000', 4096],
  ['0x1B', 27],
  ['64K', 65536],
  ['3m', 3 * 2 ** 20],
  ['2G', 2 ** 31],
  ['1T', 2 ** 40],
];

for (const [text, offsetBytes] of OFFSETS) {
  test(`parseMigrationUri() reads the file offset ${text} as ${offsetBytes} bytes`, () => {
    assert.deepEqual(parseMigrationUri(`file:/p,offset=${text}`), {
      scheme: 'file',
      path: '/p',
      offsetBytes,
    });
  });
}

const REFUSED: readonly (readonly [text: string, problem: string])[] = [
  ['', 'there is no scheme'],
  ['localhost', 'there is no scheme'],
  ['rdma:host:1', 'the scheme "rdma" is not known'],
  ['TCP:host:1', 'the scheme "TCP" is not known'],
  ['tcp:', 'the port is missing'],
  ['tcp:localhost', 'the port is missing'],
  ['tcp:localhost:', 'the port must be a number from 0 to 65535, got ""'],
  ['tcp:localhost:65536', 'the port must be a number from 0 to 65535, got "65536"'],
  ['tcp:localhost:-1', 'the port must be a number from 0 to 65535, got "-1"'],
  ['tcp:localhost:4444,to=9', 'the port must be a number from 0 to 65535, got "4444,to=9"'],
  ['tcp:::1:4444', 'an IPv6 address goes in brackets, got "::1"'],
  ['tcp:[localhost]:4444', 'brackets hold an IPv6 address, got "localhost"'],
  ['tcp:[::1:4444', 'an IPv6 address goes in brackets, got "[::1"'],
  ['tcp://localhost:4444', 'the host must be a name or an address, got "//localhost"'],
  ['tcp:a b:1', 'the host must be a name or an address, got "a b"'],
  ['unix:', 'the path is empty'],
  [`unix:/${'x'.repeat(107)}`, 'the path of a socket has at most 107 bytes, got 108'],
  ['unix:\0abstract', 'it contains a NUL byte'],
  ['fd:', 'the descriptor must be a number from 0 to 2147483647, got ""'],
  ['fd:migration', 'the descriptor must be a number from 0 to 2147483647, got "migration"'],
  ['fd:-1', 'the descriptor must be a number from 0 to 2147483647, got "-1"'],
  ['fd:2147483648', 'the descriptor must be a number from 0 to 2147483647, got "2147483648"'],
  ['exec: ', 'the command is empty'],
  ['file:', 'the path is empty'],
  ['file:,offset=1', 'the path is empty'],
  ['file:/p,offset=', 'the offset must be a size such as 4096, 0x1000 or 64K, got ""'],
  ['file:/p,offset=-1', 'the offset must be a size such as 4096, 0x1000 or 64K, got "-1"'],
  ['file:/p,offset=1Q', 'the offset must be a size such as 4096, 0x1000 or 64K, got "1Q"'],
  ['file:/p,offset=0x1K', 'the offset must be a size such as 4096, 0x1000 or 64K, got "0x1K"'],
  ['file:/p,offset=9999999T', 'the offset must be a size such as 4096, 0x1000 or 64K, got "9999999T"'],
];

for (const [text, problem] of REFUSED) {
  test(`parseMigrationUri() refuses ${JSON.stringify(text)}`, () => {
    assert.throws(
      () => parseMigrationUri(text),
      (error: unknown) => {
        assert(error instanceof UriError && error instanceof SyntaxError);
        assert.equal(error.uri, text);
        assert(error.message.startsWith(`Bad migration URI "${text}": ${problem}; expected tcp:HOST:PORT`));
        return true;
      },
    );
  });
}

test('parseMigrationUri() gives a URI that survives formatting, or a UriError, whatever the text', () => {
  const scheme = fc.constantFrom('tcp:', 'tcp:[', 'unix:', 'fd:', 'exec:', 'file:', '');
  const rest = fc.oneof(
    fc.string(),
    fc.webUrl(),
    fc.ipV6(),
    fc.constantFrom('a:1', '[::1]:1', 'p,offset=1K'),
  );
  fc.assert(
    fc.property(scheme, rest, (start, end) => {
      try {
        const uri = parseMigrationUri(start + end);
        assert.deepEqual(parseMigrationUri(formatMigrationUri(uri)), uri);
      } catch (error) {
        assert(error instanceof UriError, String(error));
      }
    }),
  );
});
