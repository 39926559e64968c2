/**
 * The report of a migration, as text for people.
 */
import type { MigrationReport, SideReport } from '../../drive/report.ts';
import { formatBytes, formatCount, formatMs } from '../../telemetry/format.ts';

const HEADINGS: Readonly<Record<MigrationReport['outcome'], string>> = {
  completed: 'COMPLETED',
  failed: 'FAILED',
  'not-started': 'NOT STARTED',
  cancelled: 'CANCELLED',
  'postcopy-paused': 'PAUSED',
  interrupted: 'INTERRUPTED',
  unknown: 'LOOK AT BOTH SIDES',
};

export function formatMigrationReport(report: MigrationReport): string {
  const lines = figures(report);
  const head = `${HEADINGS[report.outcome]}: ${report.text.replace(/\.$/, '')}.`;
  const notes = report.notes.map((note) => `  ${note}`);
  return `${[...(lines.length > 0 ? ['', ...lines, ''] : []), head, ...notes].join('\n')}\n`;
}

function figures(report: MigrationReport): string[] {
  const lines: string[] = [];
  const add = (name: string, value: string | undefined) => {
    if (value !== undefined) lines.push(`  ${name.padEnd(24)}${value}`);
  };
  const sized = (bytes: number | undefined) => (bytes === undefined ? undefined : formatBytes(bytes));
  add('source', side(report.source));
  add('destination', side(report.destination));
  if (report.totalMs === undefined && report.transferredBytes === undefined) return lines;
  add('total time', report.totalMs === undefined ? undefined : formatMs(report.totalMs));
  if (report.downtimeMs !== undefined) {
    add('the guest stood still', `${formatMs(report.downtimeMs)}, as the ${report.downtimeBy} has measured`);
  }
  add('passes', report.passes === undefined ? undefined : formatCount(report.passes));
  add(
    'switch to postcopy',
    report.postcopy && `after ${formatMs(report.postcopy.atMs)}: ${report.postcopy.why}`,
  );
  add('sent', transferred(report));
  add('  in precopy', sized(report.precopyBytes));
  add('  while it stood still', report.downtimeBytes ? sized(report.downtimeBytes) : undefined);
  add('  in postcopy', report.postcopyBytes ? sized(report.postcopyBytes) : undefined);
  add('page requests', report.pageRequests ? formatCount(report.pageRequests) : undefined);
  add('waited for pages', report.blocktimeMs === undefined ? undefined : formatMs(report.blocktimeMs));
  add('recovered', report.recoveries === 0 ? undefined : times(report.recoveries));
  return lines;
}

function times(count: number): string {
  return count === 1 ? 'once' : `${count} times`;
}

function side(side: SideReport | undefined): string | undefined {
  if (side === undefined) return undefined;
  const machine = [side.program, side.machineType].filter((part) => part !== undefined).join(', ');
  const state = `migration ${side.migrationStatus}, guest ${side.runState}`;
  const lost = {
    answers: state,
    'no-answer': `does not answer (last: ${state})`,
    'process-ended': `its process has ended (last: ${state})`,
  }[side.monitor];
  return machine === '' ? lost : `${machine}: ${lost}`;
}

function transferred({ transferredBytes, memoryBytes }: MigrationReport): string | undefined {
  if (transferredBytes === undefined) return undefined;
  return `${formatBytes(transferredBytes)}${memoryBytes === undefined ? '' : ` for ${formatBytes(memoryBytes)} of memory`}`;
}
