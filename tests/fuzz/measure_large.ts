/**
 * What reading a large file takes, measured in a process of its own.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { LargeCase } from "./large.ts";
import { READERS, useScratch } from "./readers.ts";

/** What any file may take beyond four times its size: tables of as many entries as are read at most, and garbage. */
const FREE_BYTES = 64 << 20;

/** How a reader ended. */
export interface Measured {
  /** Bytes of the file. */
  readonly size: number;
  /** "read", "refused: …" or "fault: …" */
  readonly ended: string;
  readonly milliseconds: number;
  /** By which the process grew at its largest. */
  readonly bytes: number;
}

/** Has a file of a kind read. @param scratch a folder that is there and empty, and is emptied again */
export async function measureLarge(kind: LargeCase, size: number, scratch: string): Promise<Measured> {
  useScratch(scratch);
  const file = kind.make(size), warm = READERS.find(({ name }) => name === kind.reader)!.seeds().at(-1)!;
  const folder = join(scratch, "case");
  Deno.mkdirSync(folder);
  try {
    Deno.writeFileSync(join(folder, "file"), file);
    Deno.writeFileSync(join(folder, "warm"), warm);
    const { code, stdout, stderr } = await new Deno.Command("deno", {
      args: [
        ...["run", "--quiet", "--no-check", "--no-prompt", "--v8-flags=--expose-gc"],
        ...["--allow-read", `--allow-write=${folder}`],
        ...[fileURLToPath(new URL("./large_probe.ts", import.meta.url)), kind.reader, folder],
      ],
    }).output();
    const text = new TextDecoder();
    if (code) return { size: file.length, ended: `fault: ${text.decode(stderr)}`, milliseconds: 0, bytes: 0 };
    return { size: file.length, ...JSON.parse(text.decode(stdout)) };
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** What is wrong with how a reader ended; undefined where nothing is. */
export function faultOf({ ended, bytes, size }: Measured): string | undefined {
  if (ended.startsWith("fault")) return ended;
  if (bytes > 4 * size + FREE_BYTES) return `grew by ${bytes} bytes over a file of ${size}`;
  return undefined;
}
