/** Decodes the header of a START or FULL section (see sections.ts), and refuses what no section may be. */
import { asciiText } from './ascii-text.ts';
import type { InputBuffer } from './input-buffer.ts';
import type { StreamError } from './stream-error.ts';

export interface SectionHeader {
  /** Length of the header itself in bytes. */
  readonly lengthBytes: number;
  readonly sectionId: number;
  readonly idstr: string;
  readonly instanceId: number;
  readonly versionId: number;
}

/** The header at the input's position, which stays there; or null if it is not complete yet. */
export function decodeSectionHeader(input: InputBuffer): SectionHeader | null {
  const { available, bytes, position: start, view } = input;
  if (available < 6) return null;
  const nameStart = start + 6;
  const nameBytes = bytes[nameStart - 1]!;
  if (nameBytes === 0) throw input.error('BAD_LENGTH', 'Name of section is empty', nameStart - 1);
  const lengthBytes = 6 + nameBytes + 8;
  if (available < lengthBytes) return null;
  const nameEnd = nameStart + nameBytes;
  return {
    lengthBytes,
    sectionId: view.getUint32(start + 1),
    idstr: asciiText(bytes, nameStart, nameEnd),
    instanceId: view.getUint32(nameEnd),
    versionId: view.getUint32(nameEnd + 4),
  };
}

/** The error for a section that no device here has. */
export function unknownSection(input: InputBuffer, { idstr, instanceId }: SectionHeader): StreamError {
  return input.error(
    'BAD_SECTION',
    `Unknown savevm section or instance '${idstr}' ${instanceId}. Make sure that your current VM setup matches your saved VM setup`,
    input.position,
  );
}
