//! The block of the result that stays in registers, written once for every instruction set.

/// Implements [`Vector`](super::Vector) for `$name` with registers of `$width` floats: blocks of as many rows as are listed,
/// and two registers wide.
macro_rules! vector {
    (
        $name:ident, $features:literal, $width:literal, rows $($n:literal)*,
        $pack:ident, $zero:ident, $load:ident, $store:ident, $set:ident, $fmadd:ident
    ) => {
        impl Vector for $name {
            const ROWS: usize = [$($n),*].len();
            const COLUMNS: usize = 2 * $width;

            unsafe fn pack<const ROUND: bool>(lanes: Lanes<'_>, width: usize, out: *mut f32) {
                // SAFETY: the caller's promises.
                unsafe { pack::$pack::<ROUND>(lanes, width, out) };
            }

            unsafe fn multiply(
                kc: usize,
                left: *const f32,
                right: *const f32,
                right_step: usize,
                c: *mut f32,
                c_step: usize,
                rows: usize,
                add: bool,
            ) {
                match rows {
                    // SAFETY: the caller's promises.
                    $($n => unsafe { block::<$n>(kc, left, right, right_step, c, c_step, add) },)*
                    _ => unreachable!("a block has 1 to {} rows, not {rows}", Self::ROWS),
                }
            }
        }

        /// # Safety
        /// As [`Vector::multiply`].
        #[target_feature(enable = $features)]
        unsafe fn block<const R: usize>(
            kc: usize,
            left: *const f32,
            right: *const f32,
            right_step: usize,
            c: *mut f32,
            c_step: usize,
            add: bool,
        ) {
            let mut sums = [[$zero(); 2]; R];
            // SAFETY: the caller's promises; a prefetch may miss the data.
            unsafe {
                for (i, [low, high]) in sums.iter_mut().enumerate() {
                    let row = c.add(i * c_step);
                    for line in (0..$name::COLUMNS).step_by(LINE) {
                        _mm_prefetch::<_MM_HINT_ET0>(row.add(line).cast());
                    }
                    if add {
                        (*low, *high) = ($load(row), $load(row.add($width)));
                    }
                }
                let (mut a, mut b) = (left, right);
                for _ in 0..kc {
                    let (low, high) = ($load(b), $load(b.add($width)));
                    for line in (0..$name::COLUMNS).step_by(LINE) {
                        let ahead = b.wrapping_add(AHEAD * right_step + line);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = $set(*a.add(i));
                        sums[0] = $fmadd(x, low, sums[0]);
                        sums[1] = $fmadd(x, high, sums[1]);
                    }
                    (a, b) = (a.add($name::ROWS), b.wrapping_add(right_step));
                }
                for (i, [low, high]) in sums.into_iter().enumerate() {
                    let row = c.add(i * c_step);
                    $store(row, low);
                    $store(row.add($width), high);
                }
            }
        }
    };
}
pub(super) use vector;

/// Floats of a cache line.
pub(super) const LINE: usize = 16;
/// How many inner indices ahead of its use a row of the right factor is fetched.
pub(super) const AHEAD: usize = 8;
