//! What AMX keeps of a thread and what its instructions do to it, after the pseudo-code of Intel's Software Developer's
//! Manual (volume 2, LDTILECFG to TILEZERO), with every condition on which they fault; and two of our own.

/// Rows of the largest tile, and bytes of a row.
pub const ROWS: usize = 16;
pub const ROW: usize = 64;

/// Tiles of palette 1.
pub const TILES: usize = 8;

/// What is wrong.
pub type Fault = String;

/// A tile's shape; 0 in both where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub rows: usize,
    pub row_bytes: usize,
}

/// Signed bytes or unsigned ones, of a product's first operand and its second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signs {
    pub first: bool,
    pub second: bool,
}

/// A thread's tiles.
pub struct State {
    shapes: Option<[Shape; TILES]>,
    data: [[[u8; ROW]; ROWS]; TILES],
}

impl State {
    /// As threads begin.
    pub const RELEASED: State = State { shapes: None, data: [[[0; ROW]; ROWS]; TILES] };

    /// Whether tiles are configured.
    pub fn configured(&self) -> bool {
        self.shapes.is_some()
    }

    /// `ldtilecfg`. Tiles that are configured may be configured anew, but here it says that a task left them so.
    pub fn configure(&mut self, config: &[u8; 64]) -> Result<(), Fault> {
        if self.configured() {
            return Err("tiles are configured already: a task did not release them".into());
        }
        *self = State { shapes: shapes(config)?, ..State::RELEASED };
        Ok(())
    }

    /// `sttilecfg`.
    pub fn saved(&self) -> [u8; 64] {
        let mut config = [0; 64];
        config[0] = u8::from(self.configured());
        for (tile, shape) in self.shapes.iter().flatten().enumerate() {
            config[16 + 2 * tile] = shape.row_bytes as u8;
            config[48 + tile] = shape.rows as u8;
        }
        config
    }

    /// `tilerelease`.
    pub fn release(&mut self) {
        *self = State::RELEASED;
    }

    /// `tilezero`.
    pub fn zero(&mut self, tile: usize) -> Result<(), Fault> {
        self.shape(tile)?;
        self.data[tile] = [[0; ROW]; ROWS];
        Ok(())
    }

    /// `tileloadd` from rows that `read` gives, by their number and their bytes.
    pub fn load(&mut self, tile: usize, stride: usize, read: impl Fn(usize, &mut [u8])) -> Result<(), Fault> {
        let shape = self.strided(tile, stride)?;
        self.data[tile] = [[0; ROW]; ROWS];
        let rows = self.data[tile].iter_mut().take(shape.rows).enumerate();
        rows.for_each(|(row, to)| read(row, &mut to[..shape.row_bytes]));
        Ok(())
    }

    /// `tilestored` to rows that `write` takes.
    pub fn store(&self, tile: usize, stride: usize, write: impl Fn(usize, &[u8])) -> Result<(), Fault> {
        let shape = self.strided(tile, stride)?;
        let rows = self.data[tile].iter().take(shape.rows).enumerate();
        rows.for_each(|(row, from)| write(row, &from[..shape.row_bytes]));
        Ok(())
    }

    /// `tdpbssd`, `tdpbsud`, `tdpbusd`, `tdpbuud`: `sum += first * second`.
    pub fn multiply(&mut self, signs: Signs, sum: usize, first: usize, second: usize) -> Result<(), Fault> {
        if sum == first || first == second || sum == second {
            return Err(format!("a product of tiles {sum}, {first}, {second}: all three must differ"));
        }
        let (c, a, b) = (self.shape(sum)?, self.shape(first)?, self.shape(second)?);
        if [c, a, b].iter().any(|shape| shape.row_bytes % 4 != 0) {
            return Err("a product of tiles whose rows are not whole dwords".into());
        }
        if c.rows != a.rows || c.row_bytes != b.row_bytes || a.row_bytes / 4 != b.rows {
            return Err(format!("a product of tiles that do not fit: sums {c:?}, first {a:?}, second {b:?}"));
        }
        let (of_first, of_second) = (self.data[first], self.data[second]);
        for (sums, row) in self.data[sum].iter_mut().zip(of_first).take(c.rows) {
            add_row(signs, sums, &row[..a.row_bytes], &of_second, c.row_bytes);
        }
        Ok(())
    }

    fn shape(&self, tile: usize) -> Result<Shape, Fault> {
        let shapes = self.shapes.ok_or("tiles that are not configured")?;
        Some(shapes[tile]).filter(|shape| shape.rows > 0).ok_or_else(|| format!("tile {tile} has no shape"))
    }

    /// A stride of any size is fine to the processor; rows that overlap are none of ours.
    fn strided(&self, tile: usize, stride: usize) -> Result<Shape, Fault> {
        let shape = self.shape(tile)?;
        match stride >= shape.row_bytes {
            true => Ok(shape),
            false => Err(format!("rows of {} bytes, {stride} apart", shape.row_bytes)),
        }
    }
}

/// One row of a product.
fn add_row(signs: Signs, sums: &mut [u8; ROW], first: &[u8], second: &[[u8; ROW]; ROWS], row_bytes: usize) {
    let value = |signed: bool, byte: u8| if signed { i32::from(byte as i8) } else { i32::from(byte) };
    let fours = first.as_chunks::<4>().0;
    for (sum, column) in sums[..row_bytes].as_chunks_mut::<4>().0.iter_mut().zip(0..) {
        let mut dot = i32::from_le_bytes(*sum);
        for (four, row) in fours.iter().zip(second) {
            let products = (0..4).map(|i| value(signs.first, four[i]) * value(signs.second, row[4 * column + i]));
            dot = dot.wrapping_add(products.sum());
        }
        *sum = dot.to_le_bytes();
    }
}

/// What 64 bytes configure: none for palette 0.
fn shapes(config: &[u8; 64]) -> Result<Option<[Shape; TILES]>, Fault> {
    let fault = |why: &str| Err(format!("a configuration with {why}: {config:02x?}"));
    match config[0] {
        0 => return Ok(None),
        1 => {}
        _ => return fault("a palette that there is not"),
    }
    if config[2..16].iter().chain(&config[32..48]).chain(&config[56..]).any(|byte| *byte != 0) {
        return fault("reserved bytes that are not 0");
    }
    if config[1] != 0 {
        return fault("a start in the middle, where ours never begins");
    }
    let shapes = std::array::from_fn(|tile| Shape {
        rows: usize::from(config[48 + tile]),
        row_bytes: usize::from(u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]])),
    });
    if shapes.iter().any(|shape| shape.rows > ROWS || shape.row_bytes > ROW) {
        return fault("a tile that is too large");
    }
    match shapes.iter().any(|shape| (shape.rows == 0) != (shape.row_bytes == 0)) {
        true => fault("rows of no bytes, or bytes of no rows"),
        false => Ok(Some(shapes)),
    }
}
