import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromHex, written } from './example-stream.ts';
import {
  fileHeaderBytes,
  SectionType,
  writeEof,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from './sections.ts';

test('writeFileHeader() writes magic, version and the machine type', () => {
  const header = written((writer) => writeFileHeader(writer, 'pc-1'));
  assert.deepEqual(header, fromHex('5145564d 00000003 07 00000004 70632d31'));
  assert.equal(header.length, fileHeaderBytes('pc-1'));
});

test('writeFileHeader() adds the subsection of capabilities when there are any', () => {
  const header = written((writer) => writeFileHeader(writer, 'm', ['x-ignore-shared', 'mapped-ram']));
  assert.deepEqual(
    header,
    fromHex(
      '5145564d 00000003 07 00000001 6d' +
        '05 1a 636f6e66696775726174696f6e2f6361706162696c6974696573 00000001 00000002' +
        '0f 782d69676e6f72652d736861726564 0a 6d61707065642d72616d',
    ),
  );
  assert.equal(header.length, fileHeaderBytes('m', ['x-ignore-shared', 'mapped-ram']));
});

test('writeFileHeader() adds the uuid behind the capabilities', () => {
  const uuid = Uint8Array.from({ length: 16 }, (_, index) => index + 1);
  const header = written((writer) => writeFileHeader(writer, 'm', [], uuid));
  assert.deepEqual(
    header,
    fromHex(
      '5145564d 00000003 07 00000001 6d' +
        '05 12 636f6e66696775726174696f6e2f75756964 00000001 0102030405060708090a0b0c0d0e0f10',
    ),
  );
  assert.equal(header.length, fileHeaderBytes('m', [], uuid));
  assert.equal(fileHeaderBytes('m', ['mapped-ram'], uuid) - fileHeaderBytes('m', ['mapped-ram']), 40);
});

test('writeSectionStart() writes type, id, name, instance and version', () => {
  const header = written((writer) => writeSectionStart(writer, SectionType.START, 2, 'ram', 0, 4));
  assert.deepEqual(header, fromHex('01 00000002 03 72616d 00000000 00000004'));
});

test('writeSectionContinuation(), writeSectionFooter() and writeEof() write their bytes', () => {
  const end = written((writer) => {
    writeSectionContinuation(writer, SectionType.END, 2);
    writeSectionFooter(writer, 2);
    writeEof(writer);
  });
  assert.deepEqual(end, fromHex('03 00000002 7e 00000002 00'));
});
