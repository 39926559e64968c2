; Random: adds one to the counter of every page of the range once a pass, in an order that looks random.
;
; The order is a full-period linear congruential sequence over the next power of two, x' = (A x + C) & mask, each x
; stirred by y = x ^ (x >> shift); y is the page, and those outside the range are skipped. Every pass begins at the
; nonce plus the pass. Pages reached hold the pass in progress, the others one less; as in counter, a page is checked
; before it is changed. With rate= it is paced by the TSC.

%define GUEST_NAME "random"
%define GUEST_KIND 'rand'
%include "common.inc"

A               equ 0x19660d            ; 1 modulo 4
C               equ 0x3c6ef35f          ; odd
PAGES_A_POLL    equ 256

main:
        call init_range
        call choose_order
        call choose_pace
.pass:
        inc dword [H_PASS]
        mov ebp, [H_PASS]
        mov eax, [nonce]
        add eax, ebp
        and eax, [H_MASK]
        mov [first], eax
        dec ebp                         ; what each page must hold
        mov edi, eax                    ; x
        mov dword [until_poll], PAGES_A_POLL
.next:
        mov ebx, edi
        mov cl, [H_SHIFT]
        shr ebx, cl
        xor ebx, edi                    ; number of the page
        cmp ebx, [H_PAGES]
        jae .step
        mov esi, ebx
        shl esi, 12
        add esi, RANGE
        cmp [esi + COUNTER], ebp
        jne .wrong_counter
        cmp [esi + NUMBER], ebx
        jne .wrong_number
        mov edx, [nonce]
        cmp [esi + NONCE], edx
        jne .wrong_nonce
        inc dword [esi + COUNTER]
        cmp dword [H_RATE], 0
        jne .paced
        dec dword [until_poll]
        jnz .step
        mov dword [until_poll], PAGES_A_POLL
        call poll
.step:
        imul edi, edi, A
        add edi, C
        and edi, [H_MASK]
        cmp edi, [first]
        jne .next
        jmp .pass
.paced:
        call poll
        call wait_for_turn
        jmp .step

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

; The mask is the next power of two less one; the shift is half its bits, at least one.
choose_order:
        mov ecx, [H_PAGES]
        dec ecx
        jz .single
        bsr ecx, ecx
        inc ecx                         ; bits of the mask
        mov eax, 1
        shl eax, cl
        dec eax
        mov [H_MASK], eax
        shr ecx, 1
        jnz .shift
        inc ecx
.shift:
        mov [H_SHIFT], ecx
        ret
.single:
        mov dword [H_MASK], 0
        mov dword [H_SHIFT], 1
        ret

; TSC units from one page to the next.
choose_pace:
        cmp dword [H_RATE], 0
        je .done
        mov eax, 1000
        mul dword [tsc_a_ms]
        cmp edx, [H_RATE]
        jae bad_option
        div dword [H_RATE]
        mov [tsc_a_page], eax
        rdtsc
        mov [due], eax
        mov [due + 4], edx
.done:
        ret

; Waits until the next page is due. When late by more than a second it does not catch up.
wait_for_turn:
        mov eax, [tsc_a_page]
        add [due], eax
        adc dword [due + 4], 0
.wait:
        call poll
        rdtsc
        sub eax, [due]
        sbb edx, [due + 4]
        js .early
        jnz .late
        shr eax, 10
        mov ecx, [tsc_a_ms]
        cmp eax, ecx
        jbe .done
.late:
        rdtsc
        mov [due], eax
        mov [due + 4], edx
.done:
        ret
.early:
        pause
        jmp .wait

                align 8
due:            dq 0
tsc_a_page:     dd 0
first:          dd 0
until_poll:     dd 0

image_end:
