//! A component that takes a compiler much memory and time: one large function, which nothing ever calls. Made byte by byte, since the
//! text format of it would take longer to read than the function to compile.

/// `component` with one more core module, which it does not use, and in it a function of about so many bytes, at most 7 MB. Another
/// `seed` makes another component.
#[must_use]
pub fn with_large_function(component: &[u8], bytes: usize, seed: u32) -> Vec<u8> {
    const CORE_MODULE: u8 = 1;
    let module = module_with_function(bytes, seed);
    let mut all = component.to_vec();
    all.push(CORE_MODULE);
    put_with_length(&mut all, &module);
    all
}

fn module_with_function(bytes: usize, seed: u32) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // Types: one of a function from an i32 to an i32.
    put_section(&mut module, 1, &[1, 0x60, 1, 0x7f, 1, 0x7f]);
    // Functions: one of this type.
    put_section(&mut module, 3, &[1, 0]);
    let mut code = vec![1];
    put_with_length(&mut code, &body(bytes, seed));
    put_section(&mut module, 10, &code);
    module
}

// x = (x * odd) ^ number, again and again with other numbers, so that nothing can be left out.
fn body(bytes: usize, seed: u32) -> Vec<u8> {
    const LOCAL_GET: u8 = 0x20;
    const LOCAL_SET: u8 = 0x21;
    const I32_CONST: u8 = 0x41;
    const I32_MUL: u8 = 0x6c;
    const I32_XOR: u8 = 0x73;
    const END: u8 = 0x0b;
    // No locals beside the parameter.
    let mut body = vec![0];
    let mut number = seed;
    while body.len() < bytes {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Below 2²⁰, so that it is positive in LEB128.
        let constant = number >> 12;
        body.extend([LOCAL_GET, 0, I32_CONST]);
        put_leb128(&mut body, (constant | 1) as usize & 0x3f);
        body.extend([I32_MUL, I32_CONST]);
        // Three bytes, of which the last has no sign bit.
        let low = constant as u8 | 0x80;
        let middle = (constant >> 7) as u8 | 0x80;
        body.extend([low, middle, (constant >> 14) as u8 & 0x3f]);
        body.extend([I32_XOR, LOCAL_SET, 0]);
    }
    body.extend([LOCAL_GET, 0, END]);
    body
}

fn put_section(module: &mut Vec<u8>, id: u8, content: &[u8]) {
    module.push(id);
    put_with_length(module, content);
}

fn put_with_length(bytes: &mut Vec<u8>, content: &[u8]) {
    put_leb128(bytes, content.len());
    bytes.extend(content);
}

fn put_leb128(bytes: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
