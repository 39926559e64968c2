/**
 * Makes a seed of a captured stream: the same stream with few of its pages, compressed.
 *
 *   node dist/test/fuzz/make-seed.js CAPTURE test/fuzz/seeds/NAME.gz
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { bytesOf } from './piece.ts';
import { splitStream, thinOut } from './split-stream.ts';

const KEPT_PER_KIND = 4;
const [capture, seed] = process.argv.slice(2);
if (capture === undefined || seed === undefined) throw new Error('usage: make-seed CAPTURE SEED');
const pieces = thinOut(splitStream(readFileSync(capture)), KEPT_PER_KIND);
const bytes = Buffer.concat(pieces.map(bytesOf));
writeFileSync(seed, gzipSync(bytes, { level: 9 }));
console.log(`${pieces.length} pieces, ${bytes.length} bytes`);
