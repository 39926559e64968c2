/** Everything that is fuzzed. */
import type { Target } from './target.ts';
import { DESTINATION_TARGET } from './targets/destination.ts';
import { ONLOOKER_TARGETS } from './targets/onlookers.ts';
import { SOURCE_TARGETS } from './targets/source.ts';
import { WIRE_TARGETS } from './targets/wire.ts';

export const TARGETS: readonly Target[] = [
  ...WIRE_TARGETS,
  DESTINATION_TARGET,
  ...SOURCE_TARGETS,
  ...ONLOOKER_TARGETS,
];
