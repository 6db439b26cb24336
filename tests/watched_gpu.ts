/**
 * What a WebGPU device really holds and when it goes: counted where buffers are made and destroyed, whatever an engine says of itself.
 *
 * Methods are put over those of the objects that a provider gives, which stay what they are. A buffer that nobody destroys counts as
 * held, though a garbage collector might take it.
 *
 * @module
 */

/** What is known of the devices that an entry point has given since it was watched. */
export interface Watched extends Disposable {
  /** Bytes of all buffers that were made and not destroyed, on any device. */
  readonly bytes: number;
  /** The device that was given last. */
  readonly device: GPUDevice | undefined;
}

/** Watches every device that is asked for through an entry point of WebGPU, until it is disposed of. */
export function watchGpu(gpu: GPU): Watched {
  const held = new Map<GPUDevice, Map<GPUBuffer, number>>();
  let newest: GPUDevice | undefined;
  const watchBuffers = (device: GPUDevice) => {
    const buffers = new Map<GPUBuffer, number>();
    held.set(device, buffers);
    newest = device;
    over(device, "createBuffer", (create) => (descriptor: GPUBufferDescriptor) => {
      const buffer = create(descriptor);
      buffers.set(buffer, descriptor.size);
      over(buffer, "destroy", (destroy) => () => {
        buffers.delete(buffer);
        destroy();
      });
      return buffer;
    });
    over(device, "destroy", (destroy) => () => {
      held.delete(device);
      destroy();
    });
  };
  const restore = over(gpu, "requestAdapter", (request) => async (options?: GPURequestAdapterOptions) => {
    const adapter = await request(options);
    if (adapter) {
      over(adapter, "requestDevice", (request) => async (descriptor?: GPUDeviceDescriptor) => {
        const device = await request(descriptor);
        watchBuffers(device);
        return device;
      });
    }
    return adapter;
  });
  return {
    get bytes() {
      return [...held.values()].flatMap((buffers) => [...buffers.values()]).reduce(
        (sum, size) => sum + size,
        0,
      );
    },
    get device() {
      return newest;
    },
    [Symbol.dispose]: restore,
  };
}

/** Puts a method over an object's. @returns what takes it off again */
function over<T extends object, K extends keyof T>(
  object: T,
  name: K,
  change: (own: T[K]) => T[K],
): () => void {
  const own = (object[name] as (...args: unknown[]) => unknown).bind(object) as T[K];
  Object.defineProperty(object, name, { value: change(own), configurable: true });
  return () => void Reflect.deleteProperty(object, name);
}
