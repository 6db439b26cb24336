/**
 * Every method that comes with Wishbone, registered. Methods from outside enter by {@link registerAdapter} as well.
 *
 * @module
 */
import { bat } from "./bat/bat.ts";
import { bone } from "./bone/bone.ts";
import { dora } from "./dora/dora.ts";
import { lora } from "./lora/lora.ts";
import { registerAdapter } from "./method.ts";
import { pissa } from "./pissa/pissa.ts";
import { state } from "./state/state.ts";

registerAdapter(bone);
registerAdapter(bat);
registerAdapter(lora);
registerAdapter(pissa);
registerAdapter(dora);
registerAdapter(state);

export { adapterMethod, adapterMethods, registerAdapter } from "./method.ts";
