"""A page of text that tokenizers differ on: code, numbers, scripts, emoji, runs of spaces, control characters."""

ODD_LINES = [
    "def fib(n: int) -> int:",
    "\treturn n if n < 2 else fib(n - 1) + fib(n-2)  # O(2^n)",
    "    if x==10 and   y != 0x1F:\r",
    '        print(f"{x:>8.3f}")\r',
    "",
    "The year 2024, 3.14159, 1,234,567 and  42   007\t99 bottles; don't, we'll, I'VE, they'd, O'Neil's.",
    "中文分词测试，今天天气很好。日本語のテキスト、カタカナ！ 한국어 문장입니다.",
    "Emoji: 🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 é ﬁ Ⅷ ½ x² Ａ１",
    "   leading spaces, trailing spaces   ",
    "\t\ttabs",
    " \n  ",
    "naïve café Straße ΑΒΓ абв עברית العربية ไทย हिन्दी",
    "<|im_start|>user<|im_end|><|endoftext|> <tool_call> </tool_call><|fim_prefix|>",
    "http://example.com/a?b=c&d=%20#frag C:\\path\\file.txt ----====>>> !!!??? $$$ ``` ~~~",
    "\u00a0nbsp\u2003em\u200bzero\ufeffbom \x00\x7f\x1b[0m end",
]
ODD_PAGE = "\n".join(ODD_LINES)
