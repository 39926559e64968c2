/** What our encoders write, our decoders read: any stream, in any pieces, and no part of it for the whole. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isPlainName } from './ascii-text.ts';
import {
  decodeGlobalState,
  encodeGlobalState,
  encodeLengthPrefixed,
  writeDeviceSection,
} from './device-sections.ts';
import { decodeVmDescription, walkDeviceSections } from './device-walk.ts';
import { concatenate, feed, recordingDecoder, written } from './example-stream.ts';
import { decodeMappedRamHeader, MAPPED_RAM_HEADER_BYTES, writeMappedRamHeader } from './mapped-ram.ts';
import { OpenStreamDecoder } from './open-stream-decoder.ts';
import { decodePeerFeatures, encodePeerFeatures } from './peer-features.ts';
import {
  RamSaveFlag,
  TARGET_PAGE_BYTES,
  writeMemSize,
  writePageHeader,
  writeRamEos,
  writeZeroPage,
} from './ram-record.ts';
import { RecordingOpenHandler } from './recording-open-handler.ts';
import {
  RAM_IDSTR,
  RAM_VERSION_ID,
  SectionType,
  writeEof,
  writeFileHeader,
  writeSectionContinuation,
  writeSectionFooter,
  writeSectionStart,
} from './sections.ts';
import { MIN_STREAM_BUFFER_BYTES } from './stream-decoder.ts';
import { StreamError } from './stream-error.ts';
import { encodeVmDescription, type VmDescriptionDevice } from './vm-description.ts';

const plainName = fc.string({ minLength: 1, maxLength: 30 }).filter(isPlainName);
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const bytes = (maxLength: number) => fc.uint8Array({ maxLength });

/** A precopy of one to three small blocks. */
const migration = fc
  .record({
    machineType: plainName,
    uuid: fc.option(fc.uint8Array({ minLength: 16, maxLength: 16 }), { nil: undefined }),
    sectionId: fc.integer({ min: 0, max: 100 }),
    blocks: fc.uniqueArray(fc.record({ idstr: plainName, pages: fc.integer({ min: 1, max: 9 }) }), {
      selector: ({ idstr }) => idstr,
      minLength: 1,
      maxLength: 3,
    }),
    pages: fc.array(fc.record({ block: fc.nat(), page: fc.nat(), content: fc.integer({ min: 0, max: 3 }) }), {
      maxLength: 6,
    }),
    device: fc.record({ idstr: plainName, instanceId: u32, versionId: u32, state: bytes(300) }),
  })
  .filter(({ device }) => device.idstr !== RAM_IDSTR);

type Migration = typeof migration extends fc.Arbitrary<infer T> ? T : never;

const blocksOf = ({ blocks }: Migration) =>
  blocks.map(({ idstr, pages }) => ({
    idstr,
    lengthBytes: pages * TARGET_PAGE_BYTES,
    pageSizeBytes: TARGET_PAGE_BYTES,
  }));

function placesOf({ blocks, pages }: Migration) {
  return pages.map(({ block, page, content }) => {
    const index = block % blocks.length;
    return { block: index, offset: (page % (blocks[index]?.pages ?? 1)) * TARGET_PAGE_BYTES, content };
  });
}

function encodeMigration(model: Migration): { stream: Uint8Array; eofAt: number } {
  const { machineType, uuid, sectionId, device } = model;
  const layout = blocksOf(model);
  const ram = written((writer) => {
    writeFileHeader(writer, machineType, [], uuid);
    writeSectionStart(writer, SectionType.START, sectionId, RAM_IDSTR, 0, RAM_VERSION_ID);
    writeMemSize(writer, layout, { withHostPageSize: false });
    writeRamEos(writer);
    writeSectionFooter(writer, sectionId);
    writeSectionContinuation(writer, SectionType.END, sectionId);
    let named = -1;
    for (const { block, offset, content } of placesOf(model)) {
      const idstr = block === named ? null : (layout[block]?.idstr ?? '');
      named = block;
      if (content === 0) writeZeroPage(writer, offset, idstr);
      else {
        writePageHeader(writer, offset, RamSaveFlag.PAGE, idstr);
        writer.bytes(new Uint8Array(TARGET_PAGE_BYTES).fill(content));
      }
    }
    writeRamEos(writer);
    writeSectionFooter(writer, sectionId);
  });
  const section = writeDeviceSection({
    ...device,
    sectionId: sectionId + 1,
    body: encodeLengthPrefixed(device.state),
  });
  const eofAt = ram.length + section.length;
  const description = encodeVmDescription(TARGET_PAGE_BYTES, []);
  return { stream: concatenate(ram, section, written(writeEof), description), eofAt };
}

/** `stream` in pieces whose lengths repeat. */
function* cutUp(stream: Uint8Array, lengths: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, index = 0; at < stream.length; index++) {
    const length = lengths[index % lengths.length] as number;
    yield stream.subarray(at, at + length);
    at += length;
  }
}

const cuts = fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 8 });

function decoderOf(model: Migration) {
  const { idstr, instanceId, versionId } = model.device;
  return recordingDecoder({
    machineType: model.machineType,
    blocks: blocksOf(model),
    devices: [{ idstr, instanceId, versionId, body: 'length-prefixed', maxBytes: 300 }],
  });
}

test('StreamDecoder tells of any migration what was written, however it is cut', () => {
  fc.assert(
    fc.property(migration, cuts, (model, lengths) => {
      const { decoder, handler } = decoderOf(model);
      for (const piece of cutUp(encodeMigration(model).stream, lengths)) feed(decoder, piece);
      decoder.end();
      const told = (name: string) =>
        handler.calls.filter(([call]) => call === name).map((call) => call.slice(1));
      assert.deepEqual(told('configuration'), [[model.machineType]]);
      assert.deepEqual(told('ramBlocks'), [[blocksOf(model)]]);
      assert.deepEqual(
        handler.calls.filter(([call]) => call === 'page' || call === 'zeroPage'),
        placesOf(model).map(({ block, offset, content }) =>
          content === 0
            ? ['zeroPage', block, offset]
            : ['page', block, offset, new Uint8Array(TARGET_PAGE_BYTES).fill(content)],
        ),
      );
      const { idstr, state, instanceId } = model.device;
      assert.deepEqual(told('device'), [[idstr, state, instanceId]]);
      assert.equal(told('eof').length, 1);
    }),
    { numRuns: 60 },
  );
});

test('StreamDecoder takes no part of a migration for the whole', () => {
  fc.assert(
    fc.property(migration, fc.nat(), (model, seed) => {
      const { stream, eofAt } = encodeMigration(model);
      const { decoder, handler } = decoderOf(model);
      feed(decoder, stream.subarray(0, seed % (eofAt + 1)));
      assert.throws(() => decoder.end(), { code: 'TRUNCATED' });
      assert.ok(!handler.calls.some(([call]) => call === 'eof'));
    }),
    { numRuns: 60 },
  );
});

test('OpenStreamDecoder learns the machine from any migration, however it is cut', () => {
  fc.assert(
    fc.property(migration, cuts, (model, lengths) => {
      const buffer = new Uint8Array(MIN_STREAM_BUFFER_BYTES);
      const handler = new RecordingOpenHandler(buffer);
      const decoder = new OpenStreamDecoder({ buffer, handler });
      for (const piece of cutUp(encodeMigration(model).stream, lengths)) {
        const free = decoder.free().subarray(0, piece.length);
        free.set(piece);
        decoder.commit(free.length);
        decoder.run();
      }
      const call = (name: string) => handler.calls.find(([called]) => called === name)?.[1];
      const { machineType, uuid } = call('configuration') as { machineType: string; uuid?: Uint8Array };
      assert.deepEqual([machineType, uuid], [model.machineType, model.uuid]);
      const blocks = call('ramBlocks') as readonly { idstr: string; lengthBytes: number }[];
      assert.deepEqual(
        blocks.map(({ idstr, lengthBytes }) => ({ idstr, lengthBytes })),
        blocksOf(model).map(({ idstr, lengthBytes }) => ({ idstr, lengthBytes })),
      );
      const tail = call('tailBytes') as Uint8Array;
      assert.ok(Buffer.from(tail).includes(Buffer.from(model.device.state)));
    }),
    { numRuns: 60 },
  );
});

const devices = fc.array(
  fc.record({
    name: plainName,
    instanceId: u32,
    version: u32,
    fields: fc.array(
      fc.record({
        name: plainName,
        type: plainName,
        sizeBytes: fc.integer({ min: 0, max: 50 }),
        arrayLength: fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }),
      }),
      { maxLength: 4 },
    ),
  }),
  { maxLength: 5 },
);

const fieldBytes = (fields: readonly { sizeBytes: number; arrayLength?: number | undefined }[]) =>
  fields.reduce((sum, { sizeBytes, arrayLength = 1 }) => sum + sizeBytes * arrayLength, 0);

test('a VM description tells the device sections apart that it was made for, and no others', () => {
  fc.assert(
    fc.property(devices, fc.nat(), (described, seed) => {
      const record = encodeVmDescription(TARGET_PAGE_BYTES, described as VmDescriptionDevice[]);
      const decoded = decodeVmDescription(record.subarray(5));
      assert.deepEqual(
        decoded,
        described.map(({ name, instanceId, fields }) => ({
          ...{ idstr: name, instanceId },
          bodyBytes: fieldBytes(fields),
        })),
      );
      const sections = concatenate(
        ...described.map(({ name, instanceId, version, fields }, index) =>
          writeDeviceSection({
            ...{ sectionId: index, idstr: name, instanceId, versionId: version },
            body: new Uint8Array(fieldBytes(fields)),
          }),
        ),
      );
      assert.equal(walkDeviceSections(sections, decoded).length, described.length);
      if (described.length === 0) return;
      assert.throws(
        () => walkDeviceSections(sections.subarray(0, seed % sections.length), decoded),
        StreamError,
      );
      const cut = 5 + (seed % (JSON.stringify(described).length / 2));
      assert.throws(() => decodeVmDescription(record.subarray(5, cut)), { code: 'BAD_VALUE' });
    }),
    { numRuns: 100 },
  );
});

test('a globalstate comes back, and no part of it does', () => {
  const runState = fc.string({ minLength: 1, maxLength: 99 }).filter(isPlainName);
  fc.assert(
    fc.property(runState, fc.integer({ min: 0, max: 103 }), (name, cut) => {
      const body = encodeGlobalState(name);
      assert.equal(decodeGlobalState(body), name);
      assert.throws(() => decodeGlobalState(body.subarray(0, cut)), { code: 'BAD_LENGTH' });
    }),
  );
});

test('a mapped-ram header comes back from wherever it stands', () => {
  const offset = fc.integer({ min: 0, max: 2 ** 40 });
  fc.assert(
    fc.property(offset, offset, fc.integer({ min: 0, max: 20 }), (bitmapOffset, pagesPage, before) => {
      const header = { bitmapOffset, pagesOffset: pagesPage * TARGET_PAGE_BYTES };
      const encoded = written((writer) => {
        writer.bytes(new Uint8Array(before));
        writeMappedRamHeader(writer, header);
      });
      assert.equal(encoded.length, before + MAPPED_RAM_HEADER_BYTES);
      assert.deepEqual(decodeMappedRamHeader(encoded, before, 0, 'pc.ram'), header);
    }),
  );
});

test('announced features come back, and no other PONG announces any', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffff }), u32, (features, value) => {
      assert.equal(decodePeerFeatures(encodePeerFeatures(features)), features);
      assert.equal(decodePeerFeatures(value) !== undefined, value >>> 16 === encodePeerFeatures(0) >>> 16);
    }),
  );
});
