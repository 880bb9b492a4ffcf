//! Products of matrices over borrowed slices with strides.

#![allow(unsafe_code)]

use gemm::Parallelism;

/// A matrix over a slice: element `(i, j)` is at `i * row + j * column`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

/// A matrix that is written to.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    row: usize,
}

fn fits(len: usize, rows: usize, columns: usize, row: usize, column: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < len
}

impl<'a> View<'a> {
    /// Rows one after the other.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows that begin `row` elements apart.
    ///
    /// # Panics
    /// If the slice is too short, as all functions here.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row: usize) -> Self {
        assert!(
            fits(data.len(), rows, columns, row, 1),
            "a matrix over too few numbers"
        );
        Self {
            data,
            rows,
            columns,
            row,
            column: 1,
        }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Some of its rows.
    pub fn rows_of(self, range: std::ops::Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows of a matrix"
        );
        let start = (range.start * self.row).min(self.data.len());
        Self {
            data: &self.data[start..],
            rows: range.len(),
            ..self
        }
    }

    /// A row, where its numbers lie one after the other.
    pub fn line(self, row: usize) -> &'a [f32] {
        assert!(self.column == 1, "a row of a transposed matrix");
        &self.data[row * self.row..][..self.columns]
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row: self.column,
            column: self.row,
            ..self
        }
    }
}

impl<'a> ViewMut<'a> {
    /// Rows one after the other.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows that begin `row` elements apart.
    pub fn strided(data: &'a mut [f32], rows: usize, columns: usize, row: usize) -> Self {
        assert!(
            fits(data.len(), rows, columns, row, 1),
            "a matrix over too few numbers"
        );
        Self {
            data,
            rows,
            columns,
            row,
        }
    }
}

/// `out = keep * out + scale * a · b` on this thread. With `keep` 0 what was
/// in `out` is not read.
pub fn multiply(out: ViewMut<'_>, keep: f32, scale: f32, a: View<'_>, b: View<'_>) {
    product(out, keep, scale, a, b, Parallelism::None);
}

/// The same on all threads of the pool.
pub fn matmul(out: ViewMut<'_>, keep: f32, scale: f32, a: View<'_>, b: View<'_>) {
    let threads = rayon::current_num_threads();
    let how = if threads > 1 {
        Parallelism::Rayon(threads)
    } else {
        Parallelism::None
    };
    product(out, keep, scale, a, b, how);
}

fn product(out: ViewMut<'_>, keep: f32, scale: f32, a: View<'_>, b: View<'_>, how: Parallelism) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(
        (out.rows, out.columns),
        (a.rows, b.columns),
        "outer dimensions"
    );
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    let stride = |n: usize| isize::try_from(n).expect("strides within memory");
    // SAFETY: every view was checked against its slice when it was made, and
    // `out` is borrowed mutably, so that it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.data.as_mut_ptr(),
            1,
            stride(out.row),
            keep != 0.0,
            a.data.as_ptr(),
            stride(a.column),
            stride(a.row),
            b.data.as_ptr(),
            stride(b.column),
            stride(b.row),
            keep,
            scale,
            false,
            false,
            false,
            how,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views_and_transposes_are_what_the_definition_says() {
        let a: Vec<f32> = (0..15).map(|n| n as f32).collect();
        let b: Vec<f32> = (0..20).map(|n| (n as f32) * 0.5 - 3.0).collect();
        // a is 3 x 5; b is 5 x 4.
        let mut expected = vec![1.0; 12];
        for i in 0..3 {
            for j in 0..4 {
                let sum: f32 = (0..5).map(|k| a[i * 5 + k] * b[k * 4 + j]).sum();
                expected[i * 4 + j] += 2.0 * sum;
            }
        }
        let mut out = vec![1.0; 12];
        multiply(
            ViewMut::new(&mut out, 3, 4),
            1.0,
            2.0,
            View::new(&a, 3, 5),
            View::new(&b, 5, 4),
        );
        assert_eq!(out, expected);
        let mut transposed = vec![0.0; 20];
        for k in 0..5 {
            for j in 0..4 {
                transposed[j * 5 + k] = b[k * 4 + j];
            }
        }
        let mut out = vec![f32::NAN; 12];
        matmul(
            ViewMut::new(&mut out, 3, 4),
            0.0,
            1.0,
            View::new(&a, 3, 5),
            View::new(&transposed, 4, 5).t(),
        );
        for (got, want) in out.iter().zip(&expected) {
            assert_eq!(*got, (want - 1.0) / 2.0);
        }
    }
}
