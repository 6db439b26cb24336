// out[o, i] = w[o, i] + d[i mod R, o]. Declared before this text: w, binding 1; after it: out, binding 3.
struct Parameters { size: u32, K: u32, R: u32, O: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(2) var<storage, read> d: array<f32>;                 // (R, O)
