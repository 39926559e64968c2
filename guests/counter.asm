; Counter: adds one to the counter of every page of the range, in order, pass after pass.
;
; Before it adds, it checks that the page holds the count of the pass before, its own number and the nonce. So at any
; moment the pages up to one edge hold the pass in progress and those behind it one less.

%define GUEST_NAME "counter"
%define GUEST_KIND 'cntr'
%include "common.inc"

PAGES_A_POLL    equ 1024

main:
        call init_range
.pass:
        inc dword [H_PASS]
        mov ebp, [H_PASS]
        dec ebp                         ; what each page must hold
        mov esi, RANGE
        xor ebx, ebx                    ; number of the page
.chunk:
        mov ecx, [H_PAGES]
        sub ecx, ebx
        jz .pass
        cmp ecx, PAGES_A_POLL
        jbe .begin
        mov ecx, PAGES_A_POLL
.begin:
        mov edx, [nonce]
.page:
        cmp [esi + COUNTER], ebp
        jne .wrong_counter
        cmp [esi + NUMBER], ebx
        jne .wrong_number
        cmp [esi + NONCE], edx
        jne .wrong_nonce
        inc dword [esi + COUNTER]
        add esi, 4096
        inc ebx
        dec ecx
        jnz .page
        call poll
        jmp .chunk

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
        jmp fail_page

image_end:
