"""A GGUF file again with another chat template: a model that takes tools, though it learned nothing of them."""

from pathlib import Path

import gguf

TOOLS_TEMPLATE = (
    "{% if tools %}<|user|>You may call:{% for t in tools %} {{ t | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role if m.role == 'assistant' else 'user' }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% if m.tool_call_id %}({{ m.name }}){% endif %}<|end|>{% endfor %}<|assistant|>"
)


def retemplated(source: Path, target: Path, template: str = TOOLS_TEMPLATE) -> Path:
    """Write ``source`` with this chat template; everything else stays. Returns ``target``."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "tokenizer.chat_template":
            writer.add_chat_template(template)
        elif field.name != "general.architecture" and not field.name.startswith("GGUF."):
            of_items = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=of_items)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
