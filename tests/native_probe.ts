/**
 * Gives up the right to load native code as commands do that compute on a GPU, and says what is left of it, and what engine it then
 * gets. Its argument is the engine that it asks for.
 *
 * @module
 */
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { giveUpNativeCode } from "../scripts/confine.ts";

const choice = Deno.args[0] as EngineChoice;
await giveUpNativeCode({ choice });
const { state } = await Deno.permissions.query({ name: "ffi" });
let loaded = "loaded";
try {
  Deno.dlopen("libm.so.6", {}).close();
} catch (error) {
  loaded = (error as Error).name;
}
const { engine } = await chooseEngine(choice);
console.log(JSON.stringify({ state, loaded, engine: engine.name }));
Deno.exit(0);
