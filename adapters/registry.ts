/**
 * Every method that comes with Wishbone, registered. Methods from outside enter by {@link registerAdapter} as well.
 *
 * @module
 */
import { bone } from "./bone/bone.ts";
import { lora } from "./lora/lora.ts";
import { registerAdapter } from "./method.ts";

registerAdapter(bone);
registerAdapter(lora);

export { adapterMethod, adapterMethods, registerAdapter } from "./method.ts";
