/**
 * Tells device sections apart where no description says how long they are: in the package of a postcopy.
 *
 * A section is taken to end at the first `7e id`, with its own id, that is followed by the header of another section or by
 * nothing. A device's state could contain just that, so this is for people to look at and for nothing else.
 */
import { SECTION_FOOTER_BYTES, SectionType } from '../wire/sections.ts';
import type { DeviceReport } from './stream-report.ts';

const HEADER_BYTES_WITHOUT_NAME = 1 + 4 + 1 + 4 + 4;

/**
 * @param sections FULL sections, without EOF
 * @param at stream byte of the first
 * @returns them, or undefined if they do not come out even
 */
export function findDeviceSections(sections: Uint8Array, at: number): DeviceReport[] | undefined {
  const bytes = Buffer.from(sections.buffer, sections.byteOffset, sections.byteLength);
  const found: DeviceReport[] = [];
  let position = 0;
  while (position < bytes.length) {
    const header = headerAt(bytes, position);
    if (header === undefined) return undefined;
    const footer = Buffer.alloc(SECTION_FOOTER_BYTES);
    footer[0] = SectionType.FOOTER;
    footer.writeUInt32BE(header.sectionId, 1);
    const bodyStart = position + header.lengthBytes;
    let end = bytes.indexOf(footer, bodyStart);
    for (; end >= 0; end = bytes.indexOf(footer, end + 1)) {
      const next = end + SECTION_FOOTER_BYTES;
      if (next === bytes.length || headerAt(bytes, next) !== undefined) break;
    }
    if (end < 0) return undefined;
    const { sectionId, idstr, instanceId, versionId } = header;
    found.push({ sectionId, idstr, instanceId, versionId, bodyBytes: end - bodyStart, at: at + position });
    position = end + SECTION_FOOTER_BYTES;
  }
  return found;
}

function headerAt(bytes: Buffer, position: number) {
  if (bytes.length - position < HEADER_BYTES_WITHOUT_NAME + 1) return undefined;
  if (bytes[position] !== SectionType.FULL) return undefined;
  const nameBytes = bytes[position + 5]!;
  const lengthBytes = HEADER_BYTES_WITHOUT_NAME + nameBytes;
  if (nameBytes === 0 || bytes.length - position < lengthBytes) return undefined;
  const nameEnd = position + 6 + nameBytes;
  const idstr = bytes.toString('latin1', position + 6, nameEnd);
  if (!/^[\x21-\x7e]+$/.test(idstr)) return undefined;
  return {
    lengthBytes,
    sectionId: bytes.readUInt32BE(position + 1),
    idstr,
    instanceId: bytes.readUInt32BE(nameEnd),
    versionId: bytes.readUInt32BE(nameEnd + 4),
  };
}
