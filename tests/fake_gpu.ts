/**
 * A WebGPU device that computes nothing and fails as it is told to: what real devices do too seldom to be tested with.
 *
 * @module
 */
import type { AdapterReport } from "../kernels/engines/webgpu/device.ts";

/** How it fails. Labels are those of buffers and pipelines; submissions are counted from 1. */
export interface Faults {
  /** A buffer with this label does not fit. */
  exhaustedAt?: RegExp;
  /** A submission that finds too little memory. */
  exhaustedAtSubmission?: number;
  /** The device is lost at this submission, and says so a little later. */
  lostAt?: number;
  /** The queue does nothing more from this submission on. */
  hangsAt?: number;
  /** The call that throws, of all that make something, from 1. */
  throwsAt?: number;
  /** The call of these that is found not to be valid. */
  invalidAt?: number;
  /** No device is given. */
  refused?: boolean;
}

const LIMITS = {
  maxBufferSize: 2 ** 31,
  maxStorageBufferBindingSize: 2 ** 30,
  maxStorageBuffersPerShaderStage: 10,
  maxComputeWorkgroupStorageSize: 32768,
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** An adapter that gives a device of this kind. */
export function fakeAdapter(faults: Faults): GPUAdapter {
  const adapter = {
    // Said to be software, so that no second provider is asked for something better.
    info: { description: "Fake GPU", vendor: "", device: "", isFallbackAdapter: true },
    limits: LIMITS,
    features: new Set<string>(),
    requestDevice: () =>
      faults.refused
        ? Promise.reject(new Error("Not enough memory left.\nLong explanation."))
        : Promise.resolve(fakeDevice(faults)),
  };
  return adapter as unknown as GPUAdapter;
}

/** What finding it reports. */
export function fakeReport(faults: Faults): AdapterReport {
  return { adapter: fakeAdapter(faults), description: "Fake GPU", software: false };
}

function fakeDevice(faults: Faults): GPUDevice {
  const lost = Promise.withResolvers<{ reason: string; message: string }>();
  let isLost = false, submissions = 0, exhausted = false;
  const never = new Promise<undefined>(() => {});
  const settled = () => {
    if (isLost) return Promise.reject(new Error("the device is lost"));
    return faults.hangsAt !== undefined && submissions >= faults.hangsAt ? never : Promise.resolve(undefined);
  };
  const pass = { setPipeline() {}, setBindGroup() {}, dispatchWorkgroups() {}, end() {} };
  const scopes: string[] = [];
  let calls = 0, invalid = false;
  /** The same call, which fails where it is the one to. */
  const making = <A extends unknown[], R>(make: (...args: A) => R) => (...args: A): R => {
    if (++calls === faults.throwsAt) throw new TypeError("no\nmore");
    invalid ||= calls === faults.invalidAt;
    return make(...args);
  };
  const device = {
    limits: LIMITS,
    lost: lost.promise,
    addEventListener() {},
    pushErrorScope: (kind: string) => void scopes.push(kind),
    popErrorScope: () => {
      const scope = scopes.pop();
      const found = exhausted && scope === "out-of-memory", wrong = invalid && scope === "validation";
      if (found) exhausted = false;
      if (wrong) invalid = false;
      return Promise.resolve(found || wrong ? { message: found ? "out of memory" : "not\nvalid" } : null);
    },
    createBuffer: making(({ label = "", size }: { label?: string; size: number }) => {
      if (faults.exhaustedAt?.test(label)) exhausted = true;
      const content = new ArrayBuffer(size);
      return { label, size, destroy() {}, mapAsync: settled, getMappedRange: () => content };
    }),
    createShaderModule: making(() => ({})),
    createComputePipelineAsync: making(() => Promise.resolve({ getBindGroupLayout: () => ({}) })),
    createBindGroup: making(() => ({})),
    createCommandEncoder: making(() => ({
      beginComputePass: () => pass,
      copyBufferToBuffer() {},
      finish: () => ({}),
    })),
    queue: {
      submit: () => {
        submissions++;
        if (submissions === faults.exhaustedAtSubmission) exhausted = true;
        if (submissions !== faults.lostAt) return;
        isLost = true;
        setTimeout(() => lost.resolve({ reason: "unknown", message: "Parent device is lost\nand more" }), 20);
      },
      writeBuffer() {},
      onSubmittedWorkDone: settled,
    },
    destroy: () => lost.resolve({ reason: "destroyed", message: "" }),
  };
  return device as unknown as GPUDevice;
}
