; Clock: writes the TSC and the sum of the PIT's steps since boot, about ten times a second.
;
;       tsc=<high 8 hex><low 8 hex> pit=<8 hex>
;
; The two are read within 31 microseconds of each other. The PIT is read all the time, so steps are lost only if the
; guest stands still for longer than 54 ms of its time; what is lost are whole rounds.

%define GUEST_NAME "clock"
%define GUEST_KIND 'clck'
%include "common.inc"

main:
        mov eax, [tsc_a_ms]
        shr eax, 5
        mov [longest_read], eax         ; 31 microseconds
        call read_pit
        mov ebx, eax                    ; last count
        xor ebp, ebp                    ; sum of steps
.loop:
        rdtsc
        push eax
        call read_pit
        mov ecx, ebx
        sub ecx, eax
        mov ebx, eax
        jns .forward
        add ecx, 0xffff
.forward:
        add ebp, ecx
        rdtsc
        mov esi, eax
        mov edi, edx
        pop ecx
        sub ecx, eax
        neg ecx
        cmp ecx, [longest_read]
        ja .loop                        ; too far apart to be read together
        sub eax, [last_tick_tsc]
        sbb edx, [last_tick_tsc + 4]
        jnz .write
        cmp eax, [tsc_a_tick]
        jb .loop
.write:
        mov [last_tick_tsc], esi
        mov [last_tick_tsc + 4], edi
        push ebx
        push esi
        mov esi, text_tsc
        call put_text
        mov eax, edi
        call put_hex
        pop eax
        call put_hex
        mov esi, text_pit
        call put_text
        mov eax, ebp
        call put_hex
        mov al, 10
        call put_byte
        pop ebx
        jmp .loop

                align 4
longest_read:   dd 0
text_tsc:       db "tsc=", 0
text_pit:       db " pit=", 0

image_end:
