"""What a customer is told of a decision, in Uzbek, Russian and English.

Holds words and how amounts and times are written; what is told when is the trace's.
"""

from datetime import datetime, timedelta, timezone
from decimal import Decimal

from babel.dates import format_datetime
from babel.numbers import format_currency, get_currency_precision

LANGUAGES = ("uz", "ru", "en")
TASHKENT = timezone(timedelta(hours=5))

Text = dict[str, str]
"""A sentence by language."""

_AMOUNT_FORMAT = "#,##0.## ¤¤"


def amount_of(minor: int, currency: str, language: str) -> str:
    """Return minor units as a language writes them."""
    places = get_currency_precision(currency)
    value = Decimal(minor).scaleb(-places)
    return format_currency(value, currency, format=_AMOUNT_FORMAT, locale=language)


def moment_of(at: str, language: str) -> str:
    """Return an RFC 3339 time as a language writes it, in Tashkent."""
    moment = datetime.fromisoformat(at).astimezone(TASHKENT)
    return format_datetime(moment, "medium", locale=language)


# In the order uz, ru, en.
_SUBJECTS = {
    "card": ("karta", "по карте", "this card"),
    "destination_card": ("qabul qiluvchi karta", "по карте получателя", "the receiving card"),
    "user": ("mijoz", "по клиенту", "you"),
    "merchant": ("savdo nuqtasi", "по магазину", "the merchant"),
    "device": ("qurilma", "по устройству", "this device"),
    "issuer_bin": ("bank kartalari", "по картам банка", "your bank's cards"),
    "scheme": ("toʻlov tizimi", "по платёжной системе", "the payment scheme"),
    "platform": ("xizmat", "по сервису", "the service"),
}
_WINDOWS = {
    "operation": ("bitta operatsiya", "на одну операцию", "single operation"),
    "hour": ("soatlik", "часовой", "hourly"),
    "day": ("kunlik", "дневной", "daily"),
    "week": ("haftalik", "недельный", "weekly"),
    "month": ("oylik", "месячный", "monthly"),
    "year": ("yillik", "годовой", "yearly"),
    "rolling": ("davriy", "за период", "rolling"),
}
_SENTENCES: dict[str, tuple[str, ...]] = {
    "token": (
        "Siz ushbu qurilmada tizimga kirgansiz.",
        "Вы вошли в систему на этом устройстве.",
        "You are signed in on this device.",
    ),
    "revocation": ("Sessiya amal qilmoqda.", "Сессия действует.", "Your session is valid."),
    "routing": (
        "Toʻlov {scheme} orqali oʻtadi.",
        "Платёж идёт через {scheme}.",
        "The payment goes through {scheme}.",
    ),
    "routing_refused": (
        "Bu kartalar orasida bunday operatsiya bajarilmaydi.",
        "Такая операция между этими картами не выполняется.",
        "This operation is not carried between these cards.",
    ),
    "limit_passed": (
        "Limit doirasida: {window}, {subject}.",
        "В пределах лимита: {window}, {subject}.",
        "Within the {window} limit on {subject}.",
    ),
    "max_amount": (
        "Limit yetarli emas ({window}, {subject}): {left} qoldi.",
        "Лимита не хватает ({window}, {subject}): осталось {left}.",
        "Over the {window} limit on {subject}: {left} are left.",
    ),
    "max_count": (
        "Toʻlovlar soni tugadi ({window}, {subject}).",
        "Исчерпано число платежей ({window}, {subject}).",
        "No more payments within the {window} limit on {subject}.",
    ),
    "min_amount": (
        "Summa eng kam miqdordan kichik: {floor}.",
        "Сумма меньше минимальной: {floor}.",
        "The amount is below the least accepted: {floor}.",
    ),
    "resets": ("Yangilanadi: {when}.", "Обновится: {when}.", "It grows again at {when}."),
    "commission": (
        "Komissiya: {amount}.",
        "Комиссия: {amount}.",
        "Commission: {amount}.",
    ),
    "line": ("{component}: {amount}.",) * 3,
    "commission-plan-missing": (
        "Bu operatsiya hozircha mavjud emas.",
        "Эта операция пока недоступна.",
        "This operation is not offered yet.",
    ),
    "commission-exceeds-amount": (
        "Summa komissiyadan kichik.",
        "Сумма меньше комиссии.",
        "The amount is smaller than the commission.",
    ),
    "exchange-rate-missing": (
        "Valyuta kursi hali maʼlum emas. Keyinroq urinib koʻring.",
        "Курс валюты ещё не известен. Попробуйте позже.",
        "The exchange rate is not known yet. Try again later.",
    ),
    "amount-out-of-range": (
        "Summa juda katta.",
        "Сумма слишком велика.",
        "The amount is too large.",
    ),
    "attempt_approved": (
        "Bank toʻlovni tasdiqladi.",
        "Банк одобрил платёж.",
        "The card's bank approved it.",
    ),
    "attempt_declined": (
        "Bank toʻlovni rad etdi.",
        "Банк отклонил платёж.",
        "The card's bank declined it.",
    ),
    "attempt_open": (
        "Bank javobi kutilmoqda.",
        "Ожидается ответ банка.",
        "The answer of the card's bank is awaited.",
    ),
    "attempt_undone": (
        "Toʻlov bekor qilindi, pul qaytarildi.",
        "Платёж отменён, деньги возвращены.",
        "It was undone; the money is back.",
    ),
    "nearest_amount": (
        "{amount} miqdori oʻtgan boʻlardi.",
        "Сумма {amount} прошла бы.",
        "{amount} would have passed.",
    ),
    "nearest_at": (
        "Shu summa {when} dan keyin oʻtadi.",
        "Эта сумма пройдёт после {when}.",
        "This amount passes after {when}.",
    ),
    "nearest_step_up": (
        "Toʻlovni kod bilan tasdiqlang.",
        "Подтвердите платёж кодом.",
        "Confirm the payment with a code.",
    ),
}


def words(table: str, name: str) -> Text:
    """Return the words for a window or a subject."""
    found = (_WINDOWS if table == "window" else _SUBJECTS)[name]
    return dict(zip(LANGUAGES, found, strict=True))


def sentence(name: str, **values: Text) -> Text:
    """Return a sentence in every language; each value is given in every language."""
    sentences = zip(LANGUAGES, _SENTENCES[name], strict=True)
    return {
        language: pattern.format(**{key: value[language] for key, value in values.items()})
        for language, pattern in sentences
    }


def amount(minor: int, currency: str) -> Text:
    """Return an amount in every language."""
    return {language: amount_of(minor, currency, language) for language in LANGUAGES}


def moment(at: str) -> Text:
    """Return a time in every language."""
    return {language: moment_of(at, language) for language in LANGUAGES}


def same(text: str) -> Text:
    """Return what is written the same in every language."""
    return dict.fromkeys(LANGUAGES, text)


def joined(*texts: Text) -> Text:
    """Return sentences one after another."""
    return {language: " ".join(text[language] for text in texts) for language in LANGUAGES}
