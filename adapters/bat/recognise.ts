/**
 * Which BAT a file without a description holds. By input block and by output block look alike where a layer is square; the two
 * layers of the channel mix are not, so a file that holds one of them and a layer of the time mix gives itself away.
 *
 * @module
 */
import type { AdapterHints, UnnamedFile } from "../method.ts";
import type { BatSettings } from "./bat.ts";

/** The settings of a BAT; undefined for anything else. @throws RangeError if only a hint could tell, or it contradicts the file */
export function axisOf(
  shapes: Readonly<Record<string, readonly number[]>>,
  { batAxis }: AdapterHints,
  file: UnnamedFile,
): BatSettings | undefined {
  const [name, ...others] = Object.keys(shapes), shape = shapes[name ?? ""];
  if (others.length || shape?.length !== 3 || (name !== "bone" && name !== "disha")) return undefined;
  if (shape[1] !== shape[2]) return undefined;
  const told = toldBy(file);
  if (told && batAxis && told !== batAxis) {
    throw new RangeError(
      `it is a BAT by ${told}put block, as its channel mix shows, and not by ${batAxis}put block: use --bat_axis ${told}`,
    );
  }
  const axis = batAxis ?? told;
  if (!axis) {
    throw new RangeError(
      "it is a BAT and does not say whether its blocks are chosen by input (RWKV-PEFT) or by output (PEFT), which are different " +
        "functions: say --bat_axis in or --bat_axis out",
    );
  }
  return { r: shape[1]!, axis };
}

/** What the numbers of blocks tell: the time mix has C / R, ffn.key C / R by input, ffn.value C / R by output. */
function toldBy({ sites }: UnnamedFile): "in" | "out" | undefined {
  const count = (end: RegExp) => [...sites].find(([site]) => end.test(site))?.[1].bone?.[0];
  const square = count(/\.att\./), key = count(/\.ffn\.key$/), value = count(/\.ffn\.value$/);
  if (square === undefined || (key ?? square) === (value ?? square)) return undefined;
  if (key !== undefined) return key === square ? "in" : "out";
  return value === square ? "out" : "in";
}
