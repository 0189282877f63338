//! The smallest guest that can do what the tests need: one boot sector, started in a tenth of a
//! second. It takes orders from the serial line, one letter each:
//!
//! ```text
//! p  power off (ACPI)          w<c>  write c to the disk's second sector, and flush by reading
//! r  reset in half a second       s     say what the second sector holds
//! x  panic (pvpanic)           f     say 400,000 bytes
//! m  count in a word of each of 96 pages until something is said, and say `same` if every word
//!    always held what was last written there, else `lost`
//! ```
//!
//! Everything else is echoed. The power button makes it say BUTTON and power off. It begins with
//! `READY`, and what the second sector holds.

use std::arch::global_asm;

global_asm!(
    r#"
    .pushsection .rodata.boira_payload, "a"
    .globl boira_payload_start
    .globl boira_payload_end
    .code16
boira_payload_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, 0x7b00
    sti
    movw $0x602, %dx            # PM1_EN: let the button set its status bit
    movw $0x100, %ax
    outw %ax, %dx
    movw $(1f - boira_payload_start + 0x7c00), %si
    call 70f
    call 50f
    jmp 10f
1:  .asciz "READY "
2:  .asciz "BUTTON\r\n"

10: movw $0x600, %dx            # PM1_STS
    inw %dx, %ax
    testw $0x100, %ax
    jnz 20f
    movw $0x3fd, %dx
    inb %dx, %al
    testb $1, %al
    jnz 11f
    hlt                         # until the timer's next tick
    jmp 10b
11: call 80f
    cmpb $'p', %al
    je 21f
    cmpb $'r', %al
    je 22f
    cmpb $'x', %al
    je 23f
    cmpb $'w', %al
    je 24f
    cmpb $'s', %al
    je 25f
    cmpb $'f', %al
    je 26f
    cmpb $'m', %al
    je 30f
    call 60f
    jmp 10b

20: movw $(2b - boira_payload_start + 0x7c00), %si
    call 70f
21: movw $0x604, %dx            # PM1_CNT: SLP_EN, soft off
    movw $0x2000, %ax
    outw %ax, %dx
    jmp 21b
22: movw 0x46c, %cx             # wait half a second: counted resets are apart
    addw $9, %cx
28: hlt
    cmpw %cx, 0x46c
    js 28b
    movw $0xcf9, %dx
    movb $6, %al
    outb %al, %dx
29: hlt
    jmp 29b
23: movw $0x505, %dx
    movb $1, %al
    outb %al, %dx
    jmp 10b
24: movw $0x3fd, %dx
    inb %dx, %al
    testb $1, %al
    jz 24b
    call 80f
    movb %al, 0x8000
    movb $0, 0x8001
    movw $0x0301, %ax           # write one sector
    call 55f
    jmp 10b
25: call 50f
    jmp 10b
26: movw $8000, %cx
27: pushw %cx
    movw $(3f - boira_payload_start + 0x7c00), %si
    call 70f
    popw %cx
    loop 27b
    jmp 10b
3:  .asciz "0123456789012345678901234567890123456789 flood\r\n"

30: movw $0x1000, %ax
    movw %ax, %es
    movw %es:0, %bp             # what they all held at last
31: movw $0x1000, %ax
32: movw %ax, %es
    cmpw %bp, %es:0
    jne 34f
    incw %es:0
    incb %ah                    # the next page
    cmpb $0x70, %ah
    jb 32b
    incw %bp
    movw $0x3fd, %dx
    inb %dx, %al
    testb $1, %al
    jz 31b
    call 80f
    movw $(4f - boira_payload_start + 0x7c00), %si
    jmp 35f
34: movw $(5f - boira_payload_start + 0x7c00), %si
35: pushw %ds
    popw %es
    call 70f
    jmp 10b
4:  .asciz "<same>"
5:  .asciz "<lost>"

50: movw $0x0201, %ax           # read one sector, and say it
    call 55f
    movw $0x8000, %si
    call 70f
    movb $13, %al
    call 60f
    movb $10, %al
    jmp 60f
55: movw $0x8000, %bx
    movw $2, %cx
    movb 0x7b00, %dl
    movb $0, %dh
    int $0x13
    ret
60: pushw %ax                   # say %al
    movw $0x3fd, %dx
61: inb %dx, %al
    testb $0x20, %al
    jz 61b
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    ret
70: lodsb                       # say the text at %si
    testb %al, %al
    jz 71f
    call 60b
    jmp 70b
71: ret
80: movw $0x3f8, %dx
    inb %dx, %al
    ret
    .org boira_payload_start + 510
    .byte 0x55, 0xaa
boira_payload_end:
    .code64
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static boira_payload_start: [u8; 512];
}

/// The size of a disk that [`disk`] makes.
pub const DISK_BYTES: usize = 1 << 20;

/// A raw disk that holds the payload and `mark` in its second sector.
pub fn disk(mark: &str) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    // SAFETY: the assembly above defines 512 constant bytes under this name.
    disk[..512].copy_from_slice(unsafe { &boira_payload_start });
    disk[512..512 + mark.len()].copy_from_slice(mark.as_bytes());
    disk
}
