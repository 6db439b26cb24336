/**
 * `--sft_split`, in the words of Hugging Face's datasets: `train`, `validation`, `train[:1000]`, `test[10%:]`. The name chooses files of
 * a folder, the brackets choose records of what is read.
 *
 * @module
 */
import { basename, relative } from "node:path";
import type { DataFiles } from "./files.ts";

/** A split, understood. */
interface Named {
  readonly name: string;
  /** The records from the first bound up to the second. */
  readonly bounds: readonly [Bound | undefined, Bound | undefined];
}

/** A number of records, or of hundredths of them; a negative one counts from the end. */
interface Bound {
  readonly number: number;
  readonly percent: boolean;
}

/** Names of splits that files may have; what has none is for training. */
const NAMES = ["train", "test", "validation", "valid", "val", "dev", "eval"];

/** @throws Error in one sentence for what is no split */
export function splitOf(text: string): Named {
  const bound = "(?:(-?\\d{1,15})(%?))?";
  const [whole, name, , from, fromPercent, to, toPercent] =
    new RegExp(`^([\\w-]+)(\\[${bound}:${bound}\\])?$`).exec(text) ?? [];
  const read = (number: string | undefined, percent: string | undefined) =>
    number === undefined ? undefined : { number: Number(number), percent: percent === "%" };
  const bounds = [read(from, fromPercent), read(to, toPercent)] as const;
  if (whole === undefined || bounds.some((bound) => bound?.percent && Math.abs(bound.number) > 100)) {
    throw new Error(
      `Cannot understand --sft_split ${text}: write a name such as train, or train[:1000], or train[10%:]`,
    );
  }
  return { name: name!, bounds };
}

/** The files of a split. @throws Error in one sentence where there are none */
export function filesOfSplit(found: DataFiles, path: string, text: string): DataFiles {
  const { name } = splitOf(text);
  // The folder that was named says nothing, nor what lies above it.
  const called = (file: { path: string }, name: string) =>
    new RegExp(`(^|[/\\\\._-])${name}([/\\\\._-]|$)`, "i").test(relative(path, file.path) || basename(path));
  const named = found.files.filter((file) => called(file, name));
  const unnamed = found.files.filter((file) => !NAMES.some((name) => called(file, name)));
  const files = named.length || name !== "train" ? named : unnamed;
  if (!files.length) {
    throw new Error(
      `The data in ${path} has no split "${name}": no file is called so, leave out --sft_split`,
    );
  }
  const others = found.files.filter((file) => !files.includes(file)).map(({ path }) => path);
  return { files, passedOver: [...found.passedOver, ...others] };
}

/** The records of a split among so many: from the first number up to the second. */
export function recordsOfSplit(text: string, count: number): [number, number] {
  const { bounds: [from, to] } = splitOf(text);
  const place = (bound: Bound | undefined, otherwise: number) => {
    if (!bound) return otherwise;
    const number = bound.percent ? Math.round(bound.number / 100 * count) : bound.number;
    return Math.min(count, Math.max(0, number < 0 ? count + number : number));
  };
  return [place(from, 0), place(to, count)];
}
