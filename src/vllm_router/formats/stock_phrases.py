"""Text that Whisper writes for audio without speech: sound descriptions, credits, stock phrases.

Whisper learned from subtitles. For noise, music and silence it writes what subtitles contain there.

Promises: pure. A stock phrase may still have been spoken: people do say "Thank you."

Bounds: linear in the text.

Refuses to know: the audio.
"""

import re
from typing import Final


def without_sounds(text: str) -> str:
    """Return a text without sound descriptions: "[Music]", "(upbeat music)", "♪", "*coughs*"."""
    return " ".join(_SOUNDS.sub(" ", text).split()) if _SOUNDS.search(text) else text


def _bare(text: str) -> str:
    """Return the lower-case words of a text, without punctuation, separated by single spaces."""
    return " ".join(_NO_WORD.sub(" ", text.casefold()).split())


def _bare_ones(*texts: str) -> tuple[str, ...]:
    return tuple(map(_bare, texts))


def is_stock(text: str) -> bool:
    """Return whether a text consists only of phrases that Whisper writes without speech."""
    return all(
        bare in _STOCK or is_credit(bare) for bare in map(_bare, _SENTENCE_END.split(text)) if bare
    )


def is_credit(text: str) -> bool:
    """Return whether a text contains a known subtitle credit."""
    bare = _bare(text)
    return any(name in bare for name in _CREDITS)


_NO_WORD: Final = re.compile(r"[^\w]+|_+")
_SENTENCE_END: Final = re.compile(r"[…。！？．।॥\n]+|[.!?؟۔]+(?:\s+|$)")
# Whisper uses square brackets for sounds only. Parentheses and asterisks may contain speech, so
# only known sounds are matched there.
_SOUNDS: Final = re.compile(
    r"\[[^\[\]]{0,60}\]|【[^【】]{0,60}】|[♩♪♫♬🎵🎶]+"
    r"|[(（*][^()（）*]{0,40}(?:music|applau|laugh|silence|inaudible|cough|sigh|breath|bell|phone|beep"
    r"|musik|lachen|musique|rires|música|risas|aplausos|musica|risate|muziek|muzyka|музык|смех|аплод"
    r"|müzik|音楽|音乐|音樂|掌声|拍手|笑|음악|박수|웃음|موسيقى|संगीत|เพลง|ดนตรี)[^()（）*]{0,40}[)）*]",
    re.IGNORECASE,
)
# Subtitle credits, which Whisper has learned from its training data.
_CREDITS: Final = _bare_ones(
    "amara.org",
    "dimatorzok",
    "untertitelung des zdf",
    "untertitel im auftrag des zdf",
    "sous-titrage st",
    "sous-titrage société radio-canada",
    "authorwave",
    "btistudios",
    "nicolai winther",
    "редактор субтитров",
    "субтитры сделал",
    "субтитры создавал",
    "napisy stworzone przez",
    "titulky vytvořil",
    "altyazı m.k",
    "字幕志愿者",
    "字幕志願者",
    "请不吝点赞",
    "請不吝點贊",
    "نانسي قنقر",
    "ghiền mì gõ",
)
# Whisper's output for noise, music and silence.
_STOCK: Final = frozenset(
    _bare_ones(
        "you",
        "so",
        "oh",
        "hmm",
        "bye",
        "bye bye",
        "the end",
        "music",
        "thank you",
        "thanks",
        "thank you so much",
        "thank you very much",
        "thank you for watching",
        "thank you so much for watching",
        "thanks for watching",
        "thank you for listening",
        "please subscribe",
        "please subscribe to my channel",
        "subscribe",
        "see you next time",
        "see you in the next video",
        "i ll see you in the next video",
        "we ll be right back",
        "vielen dank",
        "vielen dank fürs zuschauen",
        "danke fürs zuschauen",
        "bis zum nächsten mal",
        "merci",
        "merci d avoir regardé cette vidéo",
        "merci d avoir regardé",
        "abonnez vous",
        "gracias",
        "muchas gracias",
        "gracias por ver",
        "gracias por ver el video",
        "gracias por ver el vídeo",
        "suscríbete",
        "suscríbete al canal",
        "grazie",
        "grazie a tutti",
        "grazie per aver guardato il video",
        "grazie per la visione",
        "obrigado",
        "obrigada",
        "obrigado por assistir",
        "tchau",
        "dank u wel",
        "bedankt voor het kijken",
        "dziękuję",
        "dziękuję za uwagę",
        "dziękuję za oglądanie",
        "dzięki za oglądanie",
        "спасибо",
        "спасибо за просмотр",
        "спасибо за внимание",
        "продолжение следует",
        "дякую",
        "дякую за перегляд",
        "izlediğiniz için teşekkürler",
        "izlediğiniz için teşekkür ederim",
        "abone olmayı unutmayın",
        "tack",
        "tack för att ni tittade",
        "tack för att du tittade",
        "tak",
        "tak for at du så med",
        "takk",
        "takk for at du så på",
        "takk for at du så med",
        "kiitos",
        "kiitos kun katsoit",
        "děkuji",
        "děkuji za pozornost",
        "köszönöm",
        "köszönöm hogy megnézted",
        "mulțumesc",
        "vă mulțumim pentru vizionare",
        "ευχαριστώ",
        "terima kasih",
        "terima kasih telah menonton",
        "cảm ơn các bạn đã theo dõi",
        "cảm ơn",
        "ありがとうございました",
        "ご視聴ありがとうございました",
        "最後までご視聴いただきありがとうございました",
        "チャンネル登録をお願いいたします",
        "おやすみなさい",
        "谢谢",
        "谢谢大家",
        "谢谢观看",
        "謝謝",
        "謝謝大家",
        "謝謝觀看",
        "감사합니다",
        "시청해주셔서 감사합니다",
        "시청해 주셔서 감사합니다",
        "구독과 좋아요 부탁드립니다",
        "شكرا",
        "شكرا للمشاهدة",
        "اشتركوا في القناة",
        "תודה רבה",
        "תודה על הצפייה",
        "धन्यवाद",
        "ขอบคุณครับ",
        "ขอบคุณที่รับชม",
    )
)
