/** Everything that is fuzzed. */
import type { Target } from './target.ts';
import { DESTINATION_TARGET } from './targets/destination.ts';
import { DEVICE_STATE_TARGET } from './targets/device-state.ts';
import { FILE_TARGETS } from './targets/files.ts';
import { ONLOOKER_TARGETS } from './targets/onlookers.ts';
import { SOURCE_TARGETS } from './targets/source.ts';
import { TEXT_TARGETS } from './targets/text.ts';
import { WIRE_TARGETS } from './targets/wire.ts';

export const TARGETS: readonly Target[] = [
  ...WIRE_TARGETS,
  DESTINATION_TARGET,
  ...SOURCE_TARGETS,
  ...ONLOOKER_TARGETS,
  DEVICE_STATE_TARGET,
  ...FILE_TARGETS,
  ...TEXT_TARGETS,
];
