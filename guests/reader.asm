; Reader: fills the range once, then reads it again and again and writes one page in 256.
;
; Every word of a page but the first three is the nonce xor the word's byte offset in the range. A pass checks number,
; nonce and four words of every page; in pages whose number is a multiple of 256 it adds one to the counter, in all
; others the counter stays zero.

%define GUEST_NAME "reader"
%define GUEST_KIND 'read'
%include "common.inc"

PAGES_A_POLL    equ 1024
FIRST_WORD      equ 12

main:
        call init_range
        call fill_range
.pass:
        inc dword [H_PASS]
        mov ebp, [H_PASS]
        dec ebp                         ; what a page that is written must hold
        mov esi, RANGE
        xor ebx, ebx                    ; number of the page
        mov edi, [nonce]
.chunk:
        mov ecx, [H_PAGES]
        sub ecx, ebx
        jz .pass
        cmp ecx, PAGES_A_POLL
        jbe .page
        mov ecx, PAGES_A_POLL
.page:
        cmp [esi + NUMBER], ebx
        jne .wrong_number
        cmp [esi + NONCE], edi
        jne .wrong_nonce
%macro check_word 1
        lea edx, [esi + %1 - RANGE]
        xor edx, edi
        mov eax, [esi + %1]
        cmp eax, edx
        jne fail_page
%endmacro
        check_word FIRST_WORD
        check_word 1364
        check_word 2716
        check_word 4092
        test bl, bl
        jz .written
        cmp dword [esi + COUNTER], 0
        jne .wrong_zero
.step:
        add esi, 4096
        inc ebx
        dec ecx
        jnz .page
        call poll
        jmp .chunk
.written:
        cmp [esi + COUNTER], ebp
        jne .wrong_counter
        inc dword [esi + COUNTER]
        jmp .step

.wrong_zero:
        mov eax, [esi + COUNTER]
        xor edx, edx
        jmp fail_page
.wrong_counter:
        mov eax, [esi + COUNTER]
        mov edx, ebp
        jmp fail_page
.wrong_number:
        mov eax, [esi + NUMBER]
        mov edx, ebx
        jmp fail_page
.wrong_nonce:
        mov eax, [esi + NONCE]
        mov edx, edi
        jmp fail_page

fill_range:
        mov ebx, [H_PAGES]
        mov edi, RANGE
        mov edx, [nonce]
.page:
        mov ecx, FIRST_WORD
.word:
        lea eax, [edi + ecx - RANGE]
        xor eax, edx
        mov [edi + ecx], eax
        add ecx, 4
        cmp ecx, 4096
        jb .word
        add edi, 4096
        dec ebx
        jnz .page
        ret

image_end:
