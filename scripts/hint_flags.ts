/**
 * The flags that say of an adapter's file what it leaves unsaid, alike in every command that reads one.
 *
 * @module
 */
import type { AdapterHints } from "../mod.ts";
import { choice, file, names, real, type Values } from "./flags.ts";

/** The flags. */
export const HINTS = {
  loraAlpha: real("alpha of a LoRA whose file does not hold it"),
  loraInit: file("init_pissa.pth of a PiSSA"),
  batAxis: choice(["in", "out"], "how the blocks of a BAT are chosen, where its file does not show it"),
  targetModules: names(
    "linear layers that the adapter sits on, where its file lacks some and does not say so: names or last parts of names, such as key " +
      "att.value, or one regular expression for whole names",
  ),
};

/** What their values say. */
export function hintsFrom(values: Partial<Values<typeof HINTS>>): AdapterHints {
  const { loraAlpha, loraInit, batAxis, targetModules } = values;
  return {
    ...(loraAlpha === undefined ? {} : { loraAlpha }),
    ...(loraInit === undefined ? {} : { loraInit }),
    ...(batAxis === undefined ? {} : { batAxis }),
    ...(targetModules === undefined ? {} : { targets: { target_modules: targetModules } }),
  };
}
