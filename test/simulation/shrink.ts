/**
 * Makes a scenario that fails smaller: leaves out what goes wrong, and makes plain what is special, as long as the same rule is
 * broken.
 */
import type { BrokenRule } from './broken-rules.ts';
import type { Scenario } from './scenario.ts';
import { SimulationError, scenarioOf, simulate } from './simulate.ts';

export interface Shrunk {
  readonly scenario: Scenario;
  /** Of the smallest scenario that fails. */
  readonly error: SimulationError;
}

/** @returns undefined if the seed does not fail */
export function shrink(seed: number, broken?: BrokenRule): Shrunk | undefined {
  let scenario = scenarioOf(seed);
  const failure = tryOut(seed, scenario, broken);
  if (failure === undefined) return undefined;
  let error = failure;
  const rule = ruleOf(failure);
  for (let isSmaller = true; isSmaller; ) {
    isSmaller = false;
    for (const candidate of smallerOnes(scenario)) {
      const next = tryOut(seed, candidate, broken);
      if (next === undefined || ruleOf(next) !== rule) continue;
      [scenario, error, isSmaller] = [candidate, next, true];
      break;
    }
  }
  return { scenario, error };
}

/** The rule that was broken, without the numbers. */
export function ruleOf({ rule }: SimulationError): string {
  return rule.split(':', 1)[0] as string;
}

function tryOut(
  seed: number,
  scenario: Scenario,
  broken: BrokenRule | undefined,
): SimulationError | undefined {
  try {
    simulate(seed, { broken, change: () => scenario, keepsStory: true });
    return undefined;
  } catch (error) {
    if (error instanceof SimulationError) return error;
    throw error;
  }
}

function* smallerOnes(scenario: Scenario): Generator<Scenario> {
  const { blocks, deeds, guest, operator } = scenario;
  for (const left of deeds) yield { ...scenario, deeds: deeds.filter((deed) => deed !== left) };
  if (scenario.failure !== undefined) yield { ...scenario, failure: undefined };
  if (operator.strangers.length > 0) yield { ...scenario, operator: { ...operator, strangers: [] } };
  if (operator.triesAgain) yield { ...scenario, operator: { ...operator, triesAgain: false } };
  if (scenario.fetchMs !== undefined) yield { ...scenario, fetchMs: undefined };
  if (blocks.length > 1) yield { ...scenario, blocks: blocks.slice(0, -1) };
  if (guest.touches > 0) yield { ...scenario, guest: { ...guest, touches: guest.touches >> 1 } };
  if (guest.vcpus > 1) yield { ...scenario, guest: { ...guest, vcpus: guest.vcpus - 1 } };
  if (guest.isBursty) yield { ...scenario, guest: { ...guest, isBursty: false } };
}
