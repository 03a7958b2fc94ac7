"""Bodies of requests as clients send them.

Those of openai 3.57.0, langchain-openai 1.7.4 and llm 0.36 were recorded from the packages by a server that wrote them
down; those of Open WebUI follow its sources (Chat.svelte, utils/payload.py, routers/openai.py and routers/tasks.py).
"""

from __future__ import annotations

from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
_QUESTION: dict[str, Any] = {"role": "user", "content": "2+2?"}
_NEXT: dict[str, Any] = {"role": "user", "content": "And 3?"}
_USAGE = {"include_usage": True}

RECORDED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "openai": [
        (CHAT, {"messages": [_QUESTION]}),
        # the message of an answer, given back as an object and as its model_dump()
        (CHAT, {"messages": [
            _QUESTION,
            {"content": "4", "refusal": None, "role": "assistant", "annotations": [], "reasoning_content": "2 and 2"},
            _NEXT,
        ]}),
        (CHAT, {"messages": [
            _QUESTION,
            {
                "content": "4", "refusal": None, "role": "assistant", "annotations": [], "audio": None,
                "function_call": None, "tool_calls": None, "reasoning_content": "2 and 2",
            },
            _NEXT,
        ]}),
        (CHAT, {
            "service_tier": "auto",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "2+2?"}], "name": "ann"},
            ],
            "logprobs": True, "max_completion_tokens": 20, "metadata": {"a": "b"}, "n": 1, "parallel_tool_calls": True,
            "prompt_cache_key": "k", "reasoning_effort": "low", "safety_identifier": "u", "seed": -1, "stop": None,
            "store": False, "temperature": 0, "tool_choice": "auto", "top_logprobs": 2, "user": "u",
            "verbosity": "medium", "thinking_token_budget": 20,
        }),
        (CHAT, {
            "stream": True, "messages": [_QUESTION], "frequency_penalty": 0, "max_tokens": 20, "presence_penalty": 0,
            "stream_options": _USAGE, "top_p": 0.9,
        }),
        (CHAT, {"stream": True, "messages": [_QUESTION]}),
        (CHAT, {"stream": False, "messages": [_QUESTION]}),
        (COMPLETION, {
            "prompt": "2+2=", "best_of": 1, "echo": False, "logprobs": 1, "max_tokens": 5, "suffix": None,
        }),
        (COMPLETION, {"stream": True, "prompt": ["2+2=", "3+3="], "max_tokens": 5}),
    ],
    "langchain": [
        (CHAT, {"stream": False, "messages": [{"content": "2+2?", "role": "user"}]}),
        (CHAT, {"stream": False, "messages": [
            {"content": "Be brief.", "role": "system"},
            {"content": "2+2?", "role": "user"},
            {"content": "4", "role": "assistant"},
            {"content": "And 3?", "role": "user"},
        ]}),
        (CHAT, {
            "stream": False, "service_tier": "auto",
            "messages": [{"content": [{"type": "text", "text": "2+2?"}], "name": "ann", "role": "user"}],
            "frequency_penalty": 0.0, "logprobs": True, "max_completion_tokens": 20, "n": 1, "presence_penalty": 0.0,
            "reasoning_effort": "low", "seed": 7, "stop": ["\n\n"], "store": False, "temperature": 0.2, "top_p": 0.9,
            "verbosity": "medium",
        }),
        (CHAT, {"stream": True, "messages": [{"content": "2+2?", "role": "user"}]}),
        (CHAT, {"stream": False, "messages": [{"content": "2+2?", "role": "user"}], "stop": ["x"]}),
        (COMPLETION, {
            "prompt": ["2+2="], "frequency_penalty": 0, "logprobs": None, "max_tokens": 256, "n": 1,
            "presence_penalty": 0, "seed": None, "temperature": 0.7, "top_p": 1,
        }),
        (COMPLETION, {
            "stream": True, "prompt": "2+2=", "frequency_penalty": 0, "logprobs": None, "max_tokens": 256, "n": 1,
            "presence_penalty": 0, "seed": None, "temperature": 0.7, "top_p": 1,
        }),
    ],
    "llm": [
        (CHAT, {"stream": True, "messages": [_QUESTION], "stream_options": _USAGE}),
        (CHAT, {
            "stream": True, "messages": [_QUESTION, {"role": "assistant", "content": "4"}, _NEXT],
            "stream_options": _USAGE,
        }),
        (CHAT, {
            "stream": False, "messages": [{"role": "system", "content": "Be brief."}, _QUESTION],
            "frequency_penalty": 0.0, "max_tokens": 20, "presence_penalty": 0.0, "seed": 7, "temperature": 0.2,
            "top_p": 0.9,
        }),
        (COMPLETION, {"stream": True, "prompt": "2+2=", "stream_options": _USAGE}),
    ],
    "Open WebUI": [
        (CHAT, {"stream": True, "messages": [_QUESTION], "stream_options": _USAGE}),
        (CHAT, {
            "stream": True,
            "messages": [
                {"role": "system", "content": "Be brief."}, _QUESTION, {"role": "assistant", "content": "4"}, _NEXT,
            ],
            "stream_options": _USAGE, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 20,
            "frequency_penalty": 0.1, "presence_penalty": 0.1, "reasoning_effort": "low", "seed": 7, "stop": ["\n\n"],
            "logit_bias": {"5": -100},
        }),
        # the title of a chat
        (CHAT, {"messages": [_QUESTION], "stream": False, "max_completion_tokens": 1000}),
    ],
}  # fmt: skip
