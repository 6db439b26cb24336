// Adds four neighbours of a row of d's tile to every shard of a row of w, so that d is read once. t < O·R / 4.
// Declared before this text: w_four; stored, which makes four numbers what out holds; and what add_tile.wgsl has.
fn add_shards(t: u32) {
  let o = t / (p.R / 4u);
  let j = t % (p.R / 4u) * 4u;
  let added = vec4(d[j * p.O + o], d[(j + 1u) * p.O + o], d[(j + 2u) * p.O + o], d[(j + 3u) * p.O + o]);
  for (var i = j; i < p.K; i += p.R) {
    let at = (o * p.K + i) / 4u;
    out[at] = stored(w_four(at) + added);
  }
}
