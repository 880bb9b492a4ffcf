//! Weights of 4 and 8 bits, and their products with inputs that are rounded to
//! 8 bits in blocks of 32, as GGML does.
//!
//! A number is `scale * q + least`, `q` from 0 to 15 or 255, scale and least by
//! block of 32 in a row. Sixteen rows are a tile: four of each row's numbers
//! lie beside four of the next row's, so that one instruction multiplies
//! 16 x 4 of them with the same four of an input.

#![allow(unsafe_code)]

use half::f16;
use rayon::prelude::*;

/// Numbers with a common scale.
pub const BLOCK: usize = 32;
/// Rows of a tile.
const TILE: usize = 16;
/// Inputs that are multiplied in one go.
const INPUTS: usize = 8;

/// Bits of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// From 0 to 15.
    Four,
    /// From 0 to 255.
    Eight,
}

impl Bits {
    /// Bytes of a block of a tile.
    fn bytes(self) -> usize {
        match self {
            Self::Four => TILE * BLOCK / 2,
            Self::Eight => TILE * BLOCK,
        }
    }
}

/// A block of numbers on its way into a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Quants {
    /// What one step is.
    pub scale: f16,
    /// What 0 stands for.
    pub least: f16,
    /// The steps.
    pub steps: [u8; BLOCK],
}

/// A matrix `[rows, columns]`, row-major from outside.
#[derive(Debug, Clone)]
pub struct Quantised {
    rows: usize,
    columns: usize,
    bits: Bits,
    steps: Vec<u8>,
    /// Of every tile and block, 16 each.
    scales: Vec<f16>,
    leasts: Vec<f16>,
}

impl Quantised {
    /// Packs a matrix; `block` gives a block of a row.
    ///
    /// # Panics
    /// If the columns are no multiple of [`BLOCK`].
    pub fn pack(
        rows: usize,
        columns: usize,
        bits: Bits,
        block: impl Fn(usize, usize) -> Quants,
    ) -> Self {
        assert!(columns.is_multiple_of(BLOCK), "columns in whole blocks");
        let (tiles, blocks) = (rows.div_ceil(TILE), columns / BLOCK);
        let mut steps = vec![0; tiles * blocks * bits.bytes()];
        let mut scales = vec![f16::ZERO; tiles * blocks * TILE];
        let mut leasts = scales.clone();
        for row in 0..rows {
            for b in 0..blocks {
                let quants = block(row, b);
                let at = (row / TILE * blocks + b) * TILE + row % TILE;
                scales[at] = quants.scale;
                leasts[at] = quants.least;
                let into = &mut steps[(row / TILE * blocks + b) * bits.bytes()..];
                for (k, step) in quants.steps.into_iter().enumerate() {
                    let (at, high) = place(bits, row % TILE, k);
                    into[at] |= if high { step << 4 } else { step };
                }
            }
        }
        Self {
            rows,
            columns,
            bits,
            steps,
            scales,
            leasts,
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.steps.len() + (self.scales.len() + self.leasts.len()) * 2
    }

    /// One row as `f32`.
    pub fn row(&self, row: usize, into: &mut [f32]) {
        let blocks = self.columns / BLOCK;
        for (b, into) in into.chunks_exact_mut(BLOCK).enumerate() {
            let tile = row / TILE * blocks + b;
            let scale = self.scales[tile * TILE + row % TILE].to_f32();
            let least = self.leasts[tile * TILE + row % TILE].to_f32();
            let steps = &self.steps[tile * self.bits.bytes()..];
            for (k, x) in into.iter_mut().enumerate() {
                let (at, high) = place(self.bits, row % TILE, k);
                let step = match (self.bits, high) {
                    (Bits::Eight, _) => steps[at],
                    (Bits::Four, false) => steps[at] & 15,
                    (Bits::Four, true) => steps[at] >> 4,
                };
                *x = f32::from(step) * scale + least;
            }
        }
    }
}

/// Where a number of a block lies: byte, and whether in its upper half.
fn place(bits: Bits, row: usize, k: usize) -> (usize, bool) {
    let (group, of_four) = (k / 4, k % 4);
    match bits {
        Bits::Eight => (group * 64 + row * 4 + of_four, false),
        Bits::Four => (group % 4 * 64 + row * 4 + of_four, group >= 4),
    }
}

/// Inputs rounded to 8 bits.
#[derive(Debug)]
pub struct Rounded {
    count: usize,
    columns: usize,
    steps: Vec<i8>,
    /// Of every input and block: what a step is, and the sum of the steps.
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Rounded {
    /// Rounds inputs `[n, columns]`.
    pub fn new(x: &[f32], columns: usize) -> Self {
        let blocks = columns / BLOCK;
        let count = x.len() / columns;
        let mut rounded = Self {
            count,
            columns,
            steps: vec![0; x.len()],
            scales: vec![0.0; count * blocks],
            sums: vec![0; count * blocks],
        };
        rounded
            .steps
            .par_chunks_exact_mut(columns)
            .zip(rounded.scales.par_chunks_exact_mut(blocks))
            .zip(rounded.sums.par_chunks_exact_mut(blocks))
            .zip(x.par_chunks_exact(columns))
            .with_min_len(8)
            .for_each(|(((steps, scales), sums), x)| {
                let blocks = x.as_chunks::<BLOCK>().0.iter();
                let steps = steps.as_chunks_mut::<BLOCK>().0.iter_mut();
                for (((x, steps), scale), sum) in blocks.zip(steps).zip(scales).zip(sums) {
                    (*scale, *sum) = round(x, steps);
                }
            });
        rounded
    }
}

/// Rounds a block; gives what a step is, and the sum of the steps.
fn round(x: &[f32; BLOCK], steps: &mut [i8; BLOCK]) -> (f32, i32) {
    let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = most / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0;
    for (step, x) in steps.iter_mut().zip(x) {
        *step = (x * inverse).round_ties_even() as i8;
        sum += i32::from(*step);
    }
    // What is no number stays none.
    (
        if most.is_nan() || x.iter().any(|x| x.is_nan()) {
            f32::NAN
        } else {
            scale
        },
        sum,
    )
}

/// `out = x Wᵀ` for several matrices over the same inputs; each `out` is `[n,
/// rows]`.
pub fn product(parts: &mut [(&Quantised, &mut [f32])], x: &Rounded) {
    let n = x.count;
    let tiles: usize = parts.iter().map(|(w, _)| w.rows.div_ceil(TILE)).sum();
    let mut buffer = vec![0.0; tiles * n * TILE];
    let mut work = Vec::with_capacity(tiles);
    for (matrix, _) in parts.iter() {
        work.extend((0..matrix.rows.div_ceil(TILE)).map(|tile| (*matrix, tile)));
    }
    let level = Level::here();
    let each = (tiles / (4 * rayon::current_num_threads())).clamp(1, 64);
    buffer
        .par_chunks_exact_mut(n * TILE)
        .zip(&work)
        .with_min_len(each)
        .for_each(|(out, (matrix, tile))| matrix.tile(*tile, x, out, level));
    let mut rest = buffer.as_slice();
    for (matrix, out) in parts.iter_mut() {
        let rows = matrix.rows;
        let (own, more) = rest.split_at(rows.div_ceil(TILE) * n * TILE);
        rest = more;
        out.par_chunks_exact_mut(rows)
            .with_min_len(8)
            .enumerate()
            .for_each(|(i, row)| {
                for (t, into) in row.chunks_mut(TILE).enumerate() {
                    let from = &own[(t * n + i) * TILE..];
                    into.copy_from_slice(&from[..into.len()]);
                }
            });
    }
}

/// What the processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Any,
}

impl Level {
    fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                return Self::Avx2;
            }
        }
        Self::Any
    }
}

/// A tile, and some inputs.
struct Piece<'a> {
    steps: &'a [u8],
    scales: &'a [f16],
    leasts: &'a [f16],
    /// Of each input.
    x: &'a [i8],
    x_scales: &'a [f32],
    x_sums: &'a [i32],
    columns: usize,
    blocks: usize,
}

impl Quantised {
    /// Products of a tile with all inputs, `[n, 16]`.
    fn tile(&self, tile: usize, x: &Rounded, out: &mut [f32], level: Level) {
        debug_assert_eq!(x.columns, self.columns);
        let blocks = self.columns / BLOCK;
        let bytes = blocks * self.bits.bytes();
        let all = tile * blocks * TILE..(tile + 1) * blocks * TILE;
        let outs = out.chunks_mut(INPUTS * TILE).enumerate();
        for (i, out) in outs {
            let first = i * INPUTS;
            let piece = Piece {
                steps: &self.steps[tile * bytes..(tile + 1) * bytes],
                scales: &self.scales[all.clone()],
                leasts: &self.leasts[all.clone()],
                x: &x.steps[first * self.columns..],
                x_scales: &x.scales[first * blocks..],
                x_sums: &x.sums[first * blocks..],
                columns: self.columns,
                blocks,
            };
            self.inputs(&piece, out, level);
        }
    }

    fn inputs(&self, piece: &Piece<'_>, out: &mut [f32], level: Level) {
        let count = out.len() / TILE;
        match level {
            Level::Any => any(piece, self.bits, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                macro_rules! by_count {
                    ($($n:literal)*) => {
                        // SAFETY: the processor has AVX-512 with VNNI, and the
                        // piece holds as many inputs as `out` has room for.
                        match (self.bits, count) {
                            $((Bits::Four, $n) => unsafe { avx512::tile::<true, $n>(piece, out) },
                            (Bits::Eight, $n) => unsafe { avx512::tile::<false, $n>(piece, out) },)*
                            _ => unreachable!("at most so many inputs at once"),
                        }
                    };
                }
                by_count!(1 2 3 4 5 6 7 8);
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has AVX2, FMA and F16C; as above.
            Level::Avx2 => unsafe {
                match self.bits {
                    Bits::Four => avx2::tile::<true>(piece, out),
                    Bits::Eight => avx2::tile::<false>(piece, out),
                }
            },
        }
    }
}

/// Any processor.
fn any(piece: &Piece<'_>, bits: Bits, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(TILE).enumerate() {
        let x = &piece.x[i * piece.columns..][..piece.columns];
        out.fill(0.0);
        for b in 0..piece.blocks {
            let steps = &piece.steps[b * bits.bytes()..][..bits.bytes()];
            let mut sums = [0_i32; TILE];
            for (k, x) in x[b * BLOCK..][..BLOCK].iter().enumerate() {
                for (row, sum) in sums.iter_mut().enumerate() {
                    let (at, high) = place(bits, row, k);
                    let step = match (bits, high) {
                        (Bits::Eight, _) => steps[at],
                        (Bits::Four, false) => steps[at] & 15,
                        (Bits::Four, true) => steps[at] >> 4,
                    };
                    *sum += i32::from(step) * i32::from(*x);
                }
            }
            let scale = piece.x_scales[i * piece.blocks + b];
            let offset = scale * piece.x_sums[i * piece.blocks + b] as f32;
            for (row, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                let d = piece.scales[b * TILE + row].to_f32() * scale;
                let m = piece.leasts[b * TILE + row].to_f32();
                *out = m.mul_add(offset, (sum as f32).mul_add(d, *out));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{BLOCK, Piece, TILE};

    /// # Safety
    /// The processor must have AVX-512 F, BW and VNNI, and the piece `N` inputs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn tile<const FOUR: bool, const N: usize>(
        piece: &Piece<'_>,
        out: &mut [f32],
    ) {
        let (blocks, columns) = (piece.blocks, piece.columns);
        assert!(out.len() >= N * TILE && piece.x.len() >= N * columns);
        assert!(piece.x_scales.len() >= N * blocks && piece.x_sums.len() >= N * blocks);
        let groups = if FOUR { 4 } else { 8 };
        assert!(piece.steps.len() >= blocks * groups * 64);
        assert!(piece.scales.len() >= blocks * TILE && piece.leasts.len() >= blocks * TILE);
        let low = _mm512_set1_epi8(15);
        let mut sums = [_mm512_setzero_ps(); N];
        for b in 0..blocks {
            let mut products = [_mm512_setzero_si512(); N];
            for g in 0..groups {
                // SAFETY: all offsets are within the lengths asserted above.
                let w = unsafe {
                    _mm512_loadu_si512(piece.steps.as_ptr().add((b * groups + g) * 64).cast())
                };
                let four = |n: usize, at: usize| {
                    // SAFETY: as above; four bytes of an input's block.
                    let from = unsafe { piece.x.as_ptr().add(n * columns + b * BLOCK + at) };
                    // SAFETY: as above.
                    _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
                };
                if FOUR {
                    let first = _mm512_and_si512(w, low);
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(w), low);
                    for (n, product) in products.iter_mut().enumerate() {
                        *product = _mm512_dpbusd_epi32(*product, first, four(n, g * 4));
                        *product = _mm512_dpbusd_epi32(*product, second, four(n, 16 + g * 4));
                    }
                } else {
                    for (n, product) in products.iter_mut().enumerate() {
                        *product = _mm512_dpbusd_epi32(*product, w, four(n, g * 4));
                    }
                }
            }
            let half = |from: *const half::f16| {
                // SAFETY: sixteen of them begin at every block.
                _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.add(b * TILE).cast()) })
            };
            let scale = half(piece.scales.as_ptr());
            let least = half(piece.leasts.as_ptr());
            for (n, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                let x_scale = piece.x_scales[n * blocks + b];
                let offset = x_scale * piece.x_sums[n * blocks + b] as f32;
                let d = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), d, *sum);
                *sum = _mm512_fmadd_ps(least, _mm512_set1_ps(offset), *sum);
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            // SAFETY: `out` has room for N times 16 numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(n * TILE), sum) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{BLOCK, Piece, TILE};

    /// # Safety
    /// The processor must have AVX2, FMA and F16C, and the piece as many inputs
    /// as `out` has room for.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn tile<const FOUR: bool>(piece: &Piece<'_>, out: &mut [f32]) {
        let (blocks, columns) = (piece.blocks, piece.columns);
        let count = out.len() / TILE;
        let groups = if FOUR { 4 } else { 8 };
        assert!(piece.x.len() >= count * columns && piece.x_scales.len() >= count * blocks);
        assert!(piece.x_sums.len() >= count * blocks && piece.steps.len() >= blocks * groups * 64);
        assert!(piece.scales.len() >= blocks * TILE && piece.leasts.len() >= blocks * TILE);
        let low = _mm256_set1_epi8(15);
        let ones = _mm256_set1_epi16(1);
        let turn = _mm256_set1_epi8(-128);
        for n in 0..count {
            let four = |b: usize, at: usize| {
                // SAFETY: four bytes of an input's block, within the lengths
                // asserted above, as all offsets here.
                let from = unsafe { piece.x.as_ptr().add(n * columns + b * BLOCK + at) };
                // SAFETY: as above.
                _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
            };
            // Unsigned times signed, four at a time, summed.
            let dot = |sum, w, x| {
                let pairs = _mm256_maddubs_epi16(w, x);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
            };
            for half in 0..2 {
                let mut sum = _mm256_setzero_ps();
                for b in 0..blocks {
                    let mut product = _mm256_setzero_si256();
                    for g in 0..groups {
                        // SAFETY: as above.
                        let w = unsafe {
                            let at = (b * groups + g) * 64 + half * 32;
                            _mm256_loadu_si256(piece.steps.as_ptr().add(at).cast())
                        };
                        if FOUR {
                            let first = _mm256_and_si256(w, low);
                            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(w), low);
                            product = dot(product, first, four(b, g * 4));
                            product = dot(product, second, four(b, 16 + g * 4));
                        } else {
                            // Around 128, so that no sum of two leaves 16 bits.
                            let w = _mm256_xor_si256(w, turn);
                            let x = _mm256_sign_epi8(four(b, g * 4), w);
                            product = dot(product, _mm256_abs_epi8(w), x);
                        }
                    }
                    let x_sum = piece.x_sums[n * blocks + b];
                    if !FOUR {
                        product = _mm256_add_epi32(product, _mm256_set1_epi32(128 * x_sum));
                    }
                    let wide = |from: *const half::f16| {
                        // SAFETY: as above.
                        _mm256_cvtph_ps(unsafe {
                            _mm_loadu_si128(from.add(b * TILE + half * 8).cast())
                        })
                    };
                    let x_scale = piece.x_scales[n * blocks + b];
                    let d = _mm256_mul_ps(wide(piece.scales.as_ptr()), _mm256_set1_ps(x_scale));
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), d, sum);
                    let offset = _mm256_set1_ps(x_scale * x_sum as f32);
                    sum = _mm256_fmadd_ps(wide(piece.leasts.as_ptr()), offset, sum);
                }
                // SAFETY: `out` has room for 16 numbers of every input.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr().add(n * TILE + half * 8), sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(bits: Bits, rows: usize, columns: usize) -> Quantised {
        Quantised::pack(rows, columns, bits, |row, b| {
            let most = if bits == Bits::Four { 16 } else { 256 };
            let step = |k: usize| ((row * 31 + b * 17 + k * 7919) % most) as u8;
            Quants {
                scale: f16::from_f32(0.01 + (row % 7) as f32 * 0.003),
                least: f16::from_f32(-0.2 - (b % 3) as f32 * 0.1),
                steps: std::array::from_fn(step),
            }
        })
    }

    fn inputs(n: usize, columns: usize) -> Vec<f32> {
        (0..n * columns)
            .map(|i| ((i * 7 % 23) as f32 - 11.0) * 0.1 * (1.0 + (i / columns) as f32))
            .collect()
    }

    fn levels() -> Vec<Level> {
        let mut levels = vec![Level::Any];
        #[cfg(target_arch = "x86_64")]
        {
            if Level::here() != Level::Any {
                levels.push(Level::Avx2);
            }
            if Level::here() == Level::Avx512 {
                levels.push(Level::Avx512);
            }
        }
        levels
    }

    /// Every way of computing a product gives that of the unpacked rows with
    /// the rounded inputs.
    #[test]
    fn products_are_those_of_the_rows() {
        for bits in [Bits::Four, Bits::Eight] {
            let (rows, columns) = (35, 96);
            let w = matrix(bits, rows, columns);
            for n in [1, 3, 8, 11] {
                let x = Rounded::new(&inputs(n, columns), columns);
                for level in levels() {
                    let mut row = vec![0.0; columns];
                    for tile in 0..rows.div_ceil(TILE) {
                        let mut out = vec![f32::NAN; n * TILE];
                        w.tile(tile, &x, &mut out, level);
                        for r in 0..TILE.min(rows - tile * TILE) {
                            w.row(tile * TILE + r, &mut row);
                            for i in 0..n {
                                let at = |k: usize| {
                                    let b = i * columns / BLOCK + k / BLOCK;
                                    f64::from(x.steps[i * columns + k]) * f64::from(x.scales[b])
                                };
                                let want: f64 = row
                                    .iter()
                                    .enumerate()
                                    .map(|(k, w)| f64::from(*w) * at(k))
                                    .sum();
                                let got = f64::from(out[i * TILE + r]);
                                assert!(
                                    (got - want).abs() < 1e-4 * want.abs().max(1.0),
                                    "{bits:?} {level:?} {n}: {got} {want}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn several_matrices_share_their_inputs() {
        let (a, b) = (matrix(Bits::Four, 20, 64), matrix(Bits::Eight, 33, 64));
        let x = Rounded::new(&inputs(5, 64), 64);
        let (mut one, mut two) = (vec![0.0; 100], vec![0.0; 165]);
        product(&mut [(&a, &mut one), (&b, &mut two)], &x);
        let (mut alone, mut also) = (vec![0.0; 100], vec![0.0; 165]);
        product(&mut [(&a, &mut alone)], &x);
        product(&mut [(&b, &mut also)], &x);
        assert_eq!((one, two), (alone, also));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let w = matrix(Bits::Four, 16, 32);
        let mut x = inputs(2, 32);
        x[5] = f32::NAN;
        let mut out = vec![0.0; 32];
        product(&mut [(&w, &mut out)], &Rounded::new(&x, 32));
        assert!(out[..16].iter().all(|x| x.is_nan()));
        assert!(out[16..].iter().all(|x| x.is_finite()));
    }
}
