"""URLs of storages: what they lead to, and that no one learns a password."""
import re
import traceback

import optuna
import pytest
from optuna.storages import RDBStorage
from postgres import PASSWORD
from sqlalchemy import exc
from sqlalchemy.engine import URL
from studies import study_of

from sparsevit_mm.search.store.retrying import RetryingStorage, StorageError
from sparsevit_mm.search.store.storage import open_storage
from sparsevit_mm.search.store.urls import shown, sqlite_url

pytest_plugins = ['postgres']


def all_words(error):
    return ''.join(traceback.format_exception(type(error), error, error.__traceback__)) + repr(
        error)


@pytest.mark.parametrize('wrong, message', [
    (dict(password='pa%7Bss%7Dword'), 'refuses: .*password authentication failed'),
    (dict(user='nobody'), 'refuses: .*password authentication failed'),
    (dict(database='none'), 'refuses: .*"none" does not exist'),
    (dict(port=1), 'cannot be reached: .*Connection refused')])
def test_a_server_that_turns_us_away_learns_no_one_the_password(
        postgres, logged, caplog, capfd, wrong, message):
    url = postgres.url_of(**wrong)
    with pytest.raises(StorageError, match=re.escape(shown(url)) + ' ' + message) as info:
        open_storage(url, patience=.3)
    words = all_words(info.value) + str(logged) + caplog.text + str(capfd.readouterr())
    assert 'ss%7D' not in words and '{ss}' not in words


def test_a_lost_or_changed_password_learns_no_one_the_password(postgres, logged, caplog, capfd):
    study = study_of(open_storage(postgres.new_database(), patience=.5))
    postgres.stop()
    try:
        with pytest.raises(StorageError) as lost:
            study.set_user_attr('key', 1)
    finally:
        postgres.start()
    study.set_user_attr('key', 2)
    postgres.execute("ALTER USER searcher PASSWORD 'other'")
    try:
        study._storage.backend._backend.engine.dispose()
        with pytest.raises(StorageError, match='refuses: .*authentication failed') as changed:
            study.set_user_attr('key', 3)
    finally:
        postgres.execute(f"ALTER USER searcher PASSWORD '{PASSWORD}'", password='other')
    study.set_user_attr('key', 4)
    assert study.user_attrs == {'key': 4} and len(logged) == 2
    words = (all_words(lost.value) + all_words(changed.value) + str(logged) + caplog.text +
             str(capfd.readouterr()))
    assert '{ss}' not in words and 'ss%7D' not in words and '***' in words


def test_a_cause_that_quotes_a_secret_is_not_quoted(logged):
    def refuse():
        raise exc.OperationalError('', {}, Exception('login of u with hun%40ter or hun@ter'))

    with pytest.raises(StorageError, match=r'login of u with \*\*\* or \*\*\*$'):
        RetryingStorage(refuse, 'db://x', ['hun%40ter', 'hun@ter'], patience=.1)
    assert 'ter' not in str(logged)


@pytest.mark.parametrize('url, expected', [
    ('postgresql://u:hunter@host:5/db', 'postgresql://u:***@host:5/db'),
    ('postgresql://u:hun?t/e:r@host/db', 'postgresql://u:***@host/db'),
    ('postgresql://host/db?user=u&password=hunter', 'postgresql://host/db?password=***&user=u'),
    ('mysql+pymysql://u:hunter@h/d?ssl_key_passphrase=hunter&a=b',
     'mysql+pymysql://u:***@h/d?a=b&ssl_key_passphrase=***'),
    ('mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dhunter', 'mssql+pyodbc:///?odbc_connect=***'),
    ('postgresql://u:hunter@h/d?access_token=hunter&client_SECRET=hunter',
     'postgresql://u:***@h/d?access_token=***&client_SECRET=***')])
def test_a_shown_url_holds_no_secret(url, expected):
    assert shown(url) == expected


@pytest.mark.parametrize('url', [
    'sqlite:////a b/c@d/e%41.db', 'journal:/a/user:b@c/d.log', 'postgresql://u@h/d?x=1'])
def test_a_url_without_secrets_is_shown_as_it_is(url):
    assert shown(url) == url


@pytest.mark.parametrize('url', [
    'postgresql//u:hunter@h/d', 'postgresql://u:h@unter@h/d', 'postgresql://u:hunter@h:5a/d',
    'postgresql://u:h@hunter/x@h/d', 'postgresql://u:h@x?hunter@h/d', 'hunter', ''])
@pytest.mark.parametrize('use', [shown, open_storage])
def test_a_malformed_url_is_refused_unseen(use, url):
    with pytest.raises(ValueError, match='malformed storage URL .*%40') as info:
        use(url)
    assert 'unter' not in ''.join(traceback.format_exception_only(type(info.value), info.value))
    assert info.value.__cause__ is None and info.value.__context__ is None


@pytest.mark.parametrize('url, message', [
    ('postgresql+pg8000://u:hunter@h/d', 'needs the module pg8000, .*pip install pg8000'),
    ('nosuch://u:hunter@h/d', "SQLAlchemy .* database 'nosuch'"),
    ('sqlite:////no/such/dir/a.db', 'does not exist: /no/such/dir'),
    ('journal:/no/such/dir/a.log', 'does not exist: /no/such/dir'),
    ('journal:', "storage '' is not"), ('sqlite:////tmp', "storage '/tmp' is not")])
def test_a_url_that_can_not_work_says_why(url, message, logged):
    with pytest.raises(ValueError, match=message) as info:
        open_storage(url)
    assert 'hunter' not in all_words(info.value).split('raise', 1)[-1] and logged == []


def test_tables_of_another_program_are_refused(tmp_path, logged):
    (tmp_path / 'x.db').write_text('something else, and long enough to have a header' * 10)
    with pytest.raises(StorageError, match='x.db refuses: file is not a database'):
        open_storage(f'sqlite:///{tmp_path}/x.db')
    assert RDBStorage(f'sqlite:///{tmp_path}/y.db')  # while Optuna's own are taken
    assert open_storage(f'sqlite:///{tmp_path}/y.db')


@pytest.mark.parametrize('name', ['a?b', 'a%20b', 'a b', 'a#b', '{a}', 'a@b', 'a:b'])
def test_a_url_leads_to_its_file_whatever_is_in_the_name(tmp_path, name):
    (tmp_path / name).mkdir()
    optuna.create_study(storage=open_storage(sqlite_url(tmp_path / name / 's.db')))
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == [tmp_path / name / 's.db']


def test_a_url_that_would_lead_to_another_file_is_refused(tmp_path, monkeypatch):
    """SQLAlchemy 2.0 writes names into URLs as they are."""
    monkeypatch.setattr(URL, 'render_as_string', lambda self, **_: f'sqlite:///{self.database}')
    assert sqlite_url(tmp_path / 'a b.db').endswith('/a b.db')
    with pytest.raises(ValueError, match='SQLAlchemy .*' + re.escape(f'{tmp_path}/a?b/s.db')):
        sqlite_url(tmp_path / 'a?b' / 's.db')
