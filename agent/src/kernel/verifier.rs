//! Lives: agent, user space.
//! Called by: `load`, when the kernel refuses a program.
//! May touch: the text it is given.
//! Never: drops the sentence of refusal; shows the states of registers, which are most of the log and tell a person nothing.

/// Lines shown of a log; the whole is logged at DEBUG.
const LINES: usize = 8;
/// Longest line that is shown, in characters.
const WIDTH: usize = 160;
/// Beginnings of lines that say how the verifier went about it.
const ABOUT_ITSELF: [&str; 9] = [
    "processed ",
    "verification time ",
    "stack depth ",
    "func#",
    "from ",
    "mark_precise:",
    "propagating ",
    "Live regs before insn",
    "-- BEGIN PROG LOAD LOG --",
];

/// The lines of a verifier's log that tell why: the last source line and instructions, and the sentence of refusal.
pub(super) fn telling(log: &str) -> String {
    let lines: Vec<String> = log.lines().filter_map(shown).collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

fn shown(line: &str) -> Option<String> {
    let line = line.trim_end();
    if line.is_empty() || ABOUT_ITSELF.iter().any(|beginning| line.starts_with(beginning)) {
        return None;
    }
    let line = match line.split_once(": ") {
        Some((number, rest)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            // "12: R1=ctx() R10=fp0" is a state and no instruction, "12: (bf) r6 = r1  ; R6=ctx()" an instruction with one.
            let is_instruction = rest.trim_start().starts_with('(');
            is_instruction
                .then(|| line.split_once("  ;").or_else(|| line.split_once("; R")).map_or(line, |(left, _)| left))?
        }
        Some(_) | None => line,
    };
    Some(line.trim_end().chars().take(WIDTH).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_refusal_and_what_led_to_it_are_left() {
        let mut log = "func#0 @0\n0: R1=ctx() R10=fp0\n".to_owned();
        for number in 0..10_000 {
            log.push_str(&format!("{number}: (bf) r6 = r1                       ; R1=ctx() R6_w=ctx()\n"));
        }
        log.push_str("; let flags = unsafe { *word }; @ connect.rs:40\n");
        log.push_str("10000: (61) r2 = *(u32 *)(r6 +60)     ; R2_w=scalar(umax=255) R6_w=ctx()\n");
        log.push_str("from 9999 to 10001: R0=0 R1=ctx()\n10001: R0=0 R1=ctx() R10=fp0\n");
        log.push_str("invalid bpf_context access off=60 size=4\n");
        log.push_str(
            "processed 10001 insns (limit 1000000) max_states_per_insn 4\nverification time 12 usec\nstack depth 0\n",
        );
        let shown = telling(&log);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), LINES);
        assert_eq!(
            lines[LINES - 4..],
            [
                "9999: (bf) r6 = r1",
                "; let flags = unsafe { *word }; @ connect.rs:40",
                "10000: (61) r2 = *(u32 *)(r6 +60)",
                "invalid bpf_context access off=60 size=4"
            ]
        );
    }

    #[test]
    fn a_short_log_is_shown_whole_and_no_log_is_no_line() {
        assert_eq!(telling("R1 type=scalar expected=ctx\n"), "R1 type=scalar expected=ctx");
        assert_eq!(telling("\n\n"), "");
        assert_eq!(telling(&"x".repeat(1000)).len(), WIDTH);
    }
}
